"""How many ranks the tests start: 1, 2 and 4, on real GPUs as many as there are."""
import os

REAL = os.environ.get("LOCKSTEP_REAL_GPU") == "1"
GPUS = int(os.environ.get("LOCKSTEP_GPUS", "1")) if REAL else 4
WORLDS = [n for n in (1, 2, 4) if n <= GPUS]
