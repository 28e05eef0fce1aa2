"""What SLURM is asked for and what it answers: arrays on record, the queue, the sbatch script, and the worker inside a job."""
