"""The SLURM backend: submissions, the queue, the sbatch script and the worker in a job."""
