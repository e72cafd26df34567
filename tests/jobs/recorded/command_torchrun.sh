#!/bin/bash
# One training of a scan. It continues where an earlier run stopped, and does nothing if the training is finished.
# By hand: bash command.sh. An argument is the directory to work in, instead of this one.
place='/data/my scans/weights/weight-0.3_seed1'
cd "${1:-$place}" || exit 1
set --  # what is sourced below must not take it for its own
if grep -qs '^finished' status; then echo "$PWD: finished already"; exit 0; fi

# never two at a time; where the file system has no locks, this is left to you
exec 9> lock
flock -w 3 -E 75 9 2> /dev/null; lock=$?
if [ $lock -eq 75 ]; then echo "$PWD: running already"; exit 75; fi

echo "$PWD: the log is log.txt"
exec >> log.txt 2>&1
if [ $lock -ne 0 ]; then echo "no lock here (flock: $lock): never train here twice at a time"; fi
# in one piece, so that neither a reader nor a full disk finds half of it
set_status() { echo "$* $(hostname) $(date -u +%Y-%m-%dT%H:%M:%SZ)" > status.new && mv -f status.new status; }
without_environment() { echo "the environment is not there: $1"; set_status failed 1; exit 1; }

[ -r /data/env/bin/activate ] || without_environment /data/env/bin/activate
. /data/env/bin/activate
export TQDM_MININTERVAL=${TQDM_MININTERVAL:-10}

# The last epoch that is complete: its validation stands in the log, and its files are there. What a run continued
# from stands in the log, too: epochs after that are validated again, and what was said of them before is void.
last_complete_epoch() {
    local started='^--- .+ on .+: (starts|continues after epoch [0-9]+)$'
    for epoch in $(
        grep -aoE "$started|Epoch #[0-9]+: Current validation metric" log.txt |
            awk '/^---/ { from = $NF == "starts" ? -1 : $NF + 0; for (e in done) if (e + 0 > from) delete done[e] }
                /^Epoch/ { done[substr($2, 2) + 0] } END { for (e in done) print e }' | sort -rn
    ); do
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

torchrun --standalone --nproc-per-node 4 --no-python weaver \
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
if [ $code -eq 0 ] && [ "$(last_complete_epoch)" != 19 ]; then
    echo "the command ended without an error, but epoch 19, the last one, is not complete"
    code=1
fi

if [ $code -eq 0 ]; then set_status finished; else set_status failed $code; fi
exit $code
