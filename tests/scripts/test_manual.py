#!/usr/bin/env python3
"""The man page and the completion name every option that the program has, and no other.

    test_manual.py LOCKSTEP
"""
import os
import re
import shutil
import subprocess
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MANUAL = os.path.join(ROOT, "man", "lockstep.1")
COMPLETION = os.path.join(ROOT, "completions", "lockstep")
COMMON = "Options of every command"
LOCKSTEP = None

# Prints what the completion of the words in $@ (the last is the one under the cursor) comes to;
# compopt works inside readline alone, so its argument is printed instead.
COMPLETE = f"""
source '{COMPLETION}'
compopt() {{ echo "compopt $*"; }}
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
_lockstep
((${{#COMPREPLY[@]}})) && printf '%s\\n' "${{COMPREPLY[@]}}"
exit 0
"""


def run(*words):
    return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30,
                          check=False, env={**os.environ, "LC_ALL": "C.UTF-8"})


def commands():
    listed = run(LOCKSTEP, "--help").stdout.split("Commands:\n")[1].split("\n\n")[0]
    return re.findall(r"^  (\w+)", listed, re.MULTILINE)


def options_of_help(text):
    """{'--name' or '-n': the name of its value, or None}"""
    options = {}
    for short, name, value in re.findall(r"^  (?:(-\w), |    )(--[\w-]+)(?: (\S+))?", text, re.MULTILINE):
        options[name] = value or None
        if short:
            options[short] = value or None
    return options


def options_of_program():
    """{command: its own options}, with the common ones under COMMON."""
    found = {}
    for command in commands():
        own, common = run(LOCKSTEP, command, "--help").stdout.split(f"{COMMON}:\n")
        found[command] = options_of_help(own)
        found[COMMON] = options_of_help(common)
    return found


def options_of_manual():
    """The same of the man page: {section: {option: whether it takes a value}}"""
    found, section = {}, None
    with open(MANUAL, encoding="utf-8") as f:
        for line in f:
            if line.startswith((".Ss ", ".Sh ")):
                section = line[4:].strip()
            elif line.startswith(".It Fl "):
                for word in re.findall(r"-?[\w-]+", line[len(".It Fl "):].split(" Ar ")[0]):
                    found.setdefault(section, {})["-" + word] = " Ar " in line
    return found


def complete(*words):
    done = run("bash", "--norc", "-c", COMPLETE, "bash", "lockstep", *words)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.split("\n")[:-1]


class TestManual(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.program = options_of_program()
        cls.manual = options_of_manual()
        # What is documented before the program has it.
        cls.coming = {"serve"} - set(cls.program)

    def test_the_program_was_understood(self):
        self.assertIn("--max-tokens", self.program["generate"])
        self.assertIn("-n", self.program["generate"])
        self.assertEqual(self.program[COMMON]["--model"], "DIR")
        self.assertIsNone(self.program[COMMON]["--help"])

    def test_manual_has_the_options_of_the_program(self):
        self.assertEqual(set(self.manual) - self.coming, set(self.program))
        for command, options in self.program.items():
            with self.subTest(command=command):
                self.assertEqual(self.manual[command], {o: bool(value) for o, value in options.items()})

    def test_mandoc_finds_no_fault(self):
        if not shutil.which("mandoc"):
            self.skipTest("there is no mandoc")
        done = run("mandoc", "-T", "lint", "-W", "warning", MANUAL)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def test_man_warns_of_nothing(self):
        done = run("man", "--warnings", "-E", "UTF-8", "-l", MANUAL) if shutil.which("man") else None
        if not done or "EXIT STATUS" not in done.stdout:
            self.skipTest("there is no man that formats a page")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_completion_of_commands(self):
        documented = set(self.program) - {COMMON} | self.coming
        self.assertEqual(set(complete("")), documented | {"help", "--help", "--version"})
        self.assertEqual(complete("gen"), ["generate"])
        self.assertEqual(set(complete("help", "")), documented)
        self.assertEqual(complete("nothing", "--"), [])

    def test_completion_has_the_options_of_the_program(self):
        for command in set(self.program) - {COMMON}:
            with self.subTest(command=command):
                known = {**self.program[command], **self.program[COMMON]}
                self.assertEqual(set(complete(command, "-")), {o for o in known if o.startswith("--")})
        for command in self.coming:
            self.assertEqual({o for o in complete(command, "-") if o not in self.program[COMMON]},
                             {o for o in self.manual[command] if o.startswith("--")})

    def wanted(self, command, option, value):
        """What the program takes for an option: its choices, or a kind of file."""
        kind = {"FILE": "compopt -o default", "DIR": "compopt -o dirnames"}.get(value)
        if kind:
            return [kind]
        refused = run(LOCKSTEP, command, option, "?", "--nothing").stderr  # refused in any case
        choices = re.search(r"must be one of ([\w|.-]+)", refused)
        return choices[1].split("|") if choices else []

    def test_completion_of_values(self):
        for command, options in self.program.items():
            command = "plan" if command == COMMON else command
            for option, value in options.items():
                # A host's name is completed from this machine's list.
                if not value or option == "--host":
                    continue
                with self.subTest(command=command, option=option):
                    self.assertEqual(complete(command, option, ""),
                                     self.wanted(command, option, value))

    def test_completion_begins_with_what_is_typed(self):
        self.assertEqual(complete("plan", "--device", ""), ["auto", "host", "cuda"])
        self.assertEqual(complete("plan", "--device", "h"), ["host"])
        self.assertEqual(complete("plan", "--device", "="), ["auto", "host", "cuda"])
        self.assertEqual(complete("plan", "--device", "=", "h"), ["host"])
        self.assertEqual(complete("plan", "--json", "--np", "2", "--dev"), ["--device"])
        # A flag takes no value: what follows is the next option.
        self.assertEqual(complete("plan", "--json", "--n"), ["--np", "--no-cuda-graphs"])


if __name__ == "__main__":
    LOCKSTEP = os.path.abspath(sys.argv.pop(1))
    if not shutil.which("bash"):
        print("there is no bash")
        sys.exit(77)
    unittest.main(verbosity=2)
