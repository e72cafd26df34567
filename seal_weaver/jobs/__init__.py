"""Scans: a grid of trainings on this machine, Slurm or HTCondor, described in one YAML file.

``settings``   scan.yaml -> ``Scan``, errors with the path of the field
``grid``       ``Scan`` -> points, one training each
``scripts``    points -> text of ``command.sh``
``slurm``      submit file of one job array, and Slurm's own commands; ``htcondor`` the same there
``folder``     the directory of a scan, written and read
``progress``   how far each point is, from its files and the queue

Nothing here needs torch or weaver.
"""
