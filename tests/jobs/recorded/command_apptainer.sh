#!/bin/bash
# One training of a scan. It continues where an earlier run stopped, and does nothing if the training is finished.
# By hand: bash command.sh. An argument is the directory to work in, instead of this one.
cd "${1:-/data/my scans/weights/weight-0.3_seed1}" || exit 1
set --  # what is sourced below must not take it for its own
if grep -qs '^finished' status; then echo "$PWD: finished already"; exit 0; fi

# never two at a time; where the file system has no locks, this is left to you
exec 9> lock
flock -w 3 -E 75 9 2> /dev/null
if [ $? -eq 75 ]; then echo "$PWD: running already"; exit 75; fi

echo "$PWD: the log is log.txt"
exec >> log.txt 2>&1
set_status() { echo "$* $(hostname) $(date -u +%Y-%m-%dT%H:%M:%SZ)" > status; }

export TQDM_MININTERVAL=${TQDM_MININTERVAL:-10}

# The last epoch that is complete: its validation stands in the log, and its files are there.
last_complete_epoch() {
    for epoch in $(grep -aoE 'Epoch #[0-9]+: Current validation metric' log.txt | grep -oE '[0-9]+' | sort -rnu); do
        if [ -s net_epoch-${epoch}_state.pt ] && [ -s net_epoch-${epoch}_optimizer.pt ] &&
            { [ ! -e net_epoch-0_seal.json ] || [ -s net_epoch-${epoch}_seal.json ]; }; then
            echo "$epoch"
            return
        fi
    done
}
resume=()
epoch=$(last_complete_epoch)
if [ -n "$epoch" ]; then resume=(--load-epoch "$epoch"); fi
echo  # a progress bar that was cut off has not ended its line
echo "--- $(date) on $(hostname): ${epoch:+continues after epoch }${epoch:-starts}"
set_status running

apptainer exec --nv --bind "$PWD" --pwd "$PWD" --bind /eos --bind /cvmfs /data/weaver.sif weaver \
    --data-train 'qcd:/data/train/qcd_*.root' 'top:/data/train/top_*.root' \
    --data-val '/data/val/*.root' \
    --data-config data.yaml \
    --network-config network.py \
    --custom-functions functions.py \
    --num-epochs 20 \
    --in-memory \
    --no-fetch-by-files \
    --extra-selection-train 'jet_pt > 500 & (jet_nparticles%2 == 0)' \
    --optimizer-option clip_grad_norm 1.0 \
    --optimizer-option betas '[0.9, 0.99]' \
    -o fc_params '[[64, 0.1]]' \
    -o name "'it\\'s a \"\$name\"'" \
    -o greeting '"it'"'"'s new!"' \
    -o seal "{'gseal': {'weight': 0.3}}" \
    -o seed 1 \
    --model-prefix net "${resume[@]}" &

weaver=$!
trap 'kill -TERM $weaver' TERM INT
wait $weaver 2> /dev/null; code=$?
while kill -0 $weaver 2> /dev/null; do wait $weaver; code=$?; done

if [ $code -eq 0 ]; then set_status finished; else set_status failed $code; fi
exit $code
