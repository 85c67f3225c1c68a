"""Runs lockstep for the tests of this folder and reads what it prints."""
import json
import subprocess


class Program:
    def __init__(self, path, model=None):
        self.path = path
        self.model = ["--model", model] if model else []

    def json(self, ranks, command, *words):
        """The object that `lockstep COMMAND --json WORDS` prints on so many ranks."""
        launch = ["mpirun", "-np", str(ranks)] if ranks > 1 else []
        done = subprocess.run([*launch, self.path, command, *self.model, "--json", *words], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
        if done.returncode != 0:
            raise AssertionError(f"{command} on {ranks} ranks: exit {done.returncode}\n{done.stderr}")
        return json.loads(done.stdout)


def joined(ids):
    return ",".join(map(str, ids))
