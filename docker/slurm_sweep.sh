#!/bin/bash
# A sweep on a SLURM cluster: every task of the array works on the same sweep until nothing is left. EDIT three lines.
#   sbatch docker/slurm_sweep.sh
#SBATCH --array=0-7 --gres=gpu:1 --cpus-per-task=4 --time=24:00:00 # EDIT 1: how many processes, on what, how long
#SBATCH --job-name=sweep
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120 # two minutes before the time limit: cells end at their last checkpoint, and go on later
ENVIRONMENT="" # EDIT 2: what makes `python -m lit_robust` work, as in "source venv/bin/activate"
SWEEP="partial_cutoffs_resnet18.yaml" # EDIT 3: the sweep and its options, as in "mine.yaml --data.root /scratch/data"

cd "$SLURM_SUBMIT_DIR" || exit 2
eval "$ENVIRONMENT"
# shellcheck disable=SC2086 - the options are several words
srun python -m lit_robust sweep $SWEEP
code=$?

# 130: told to stop. A job that still runs met its time limit and goes back to the queue, under the number by which it
# finds its own cell again; one that was cancelled does not.
if [ "$code" -eq 130 ] && [ "$(squeue --noheader --job "$SLURM_JOB_ID" --format %T)" = RUNNING ]; then
    scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$code"
