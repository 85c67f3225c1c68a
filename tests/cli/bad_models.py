#!/usr/bin/env python3
"""Broken model directories, and what lockstep says of each: one line that names file and field,
exit code 2, soon and in little memory, for any number of ranks. And odd ones that must work.

    bad_models.py LOCKSTEP [NP] [--all] [--only TEXT] [--max-rss MIB]

Runs every case as a single process; with NP also under `mpirun -np NP`: the cases marked so (the
ways in which ranks could come to differ), with --all every one.
"""
import argparse
import concurrent.futures
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "tests", "data", "tiny-qwen3")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBED = "model.embed_tokens.weight"
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.norm.weight"
TIMEOUT_S = 20
CASES = []


class Case:
    def __init__(self, name, change, texts, mpi=False, args=None, good=False, code=2):
        self.name, self.change, self.texts = name, change, texts
        self.mpi, self.args, self.good, self.code = mpi, args, good, code


def bad(name, *texts, mpi=False, args=None, code=2):
    """Registers a change of a good directory; the error line must hold every text."""
    def register(change):
        CASES.append(Case(name, change, texts, mpi, args, code=code))
        return change
    return register


def good(name, *texts, mpi=False):
    """Registers a change after which the model must answer as before."""
    def register(change):
        CASES.append(Case(name, change, texts, mpi, good=True))
        return change
    return register


# ---- tools for changes ----

def path(d, name):
    return os.path.join(d, name)


def write(d, name, data):
    if os.path.lexists(path(d, name)):
        os.remove(path(d, name))
    with open(path(d, name), "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())


def edit_json(d, name, edit):
    with open(path(d, name), encoding="utf-8") as f:
        value = json.load(f)
    edit(value)
    write(d, name, json.dumps(value))


def read_weights(d):
    with open(path(d, WEIGHTS), "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        return json.loads(f.read(size)), f.read()


def write_weights(d, header, data, name=WEIGHTS):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    write(d, name, struct.pack("<Q", len(text)) + text + data)


def edit_header(edit):
    def change(d):
        header, data = read_weights(d)
        write_weights(d, edit(header) or header, data)
    return change


def without(header, name):
    """The header less a tensor whose bytes go to an extra one, so that nothing else is wrong."""
    header["extra.bytes"] = header.pop(name)


def slices(header, data, names):
    """A header and data of some of the tensors."""
    out, chunks, at = {}, [], 0
    for name in names:
        begin, end = header[name]["data_offsets"]
        out[name] = {**header[name], "data_offsets": [at, at + end - begin]}
        chunks.append(data[begin:end])
        at += end - begin
    return out, b"".join(chunks)


def make_shards(d):
    """Turns the single file into two shards with an index; returns their names."""
    header, data = read_weights(d)
    header.pop("__metadata__", None)
    names, files, where = sorted(header), ["a.safetensors", "b.safetensors"], {}
    for part, name in ((names[:20], files[0]), (names[20:], files[1])):
        write_weights(d, *slices(header, data, part), name=name)
        where.update((tensor, name) for tensor in part)
    os.remove(path(d, WEIGHTS))
    write(d, INDEX, json.dumps({"metadata": {"total_size": len(data)}, "weight_map": where}))
    return files


def edit_map(edit):
    def change(d):
        make_shards(d)
        edit_json(d, INDEX, lambda v: edit(v["weight_map"]))
    return change


# ---- config.json ----

def field(name, value, *texts, mpi=False, key=None):
    def edit(c):
        if value is REMOVED:
            c.pop(name)
        else:
            c[name] = value
    bad(f"config: {name} {key or value!r}", "config.json", name, *texts,
        mpi=mpi)(lambda d: edit_json(d, "config.json", edit))


REMOVED = object()
field("num_hidden_layers", 10**12, "1024", mpi=True)
field("num_hidden_layers", 10**30)
field("num_hidden_layers", 0)
field("num_hidden_layers", -1)
field("num_hidden_layers", "four")
field("num_hidden_layers", 4.5)
field("num_hidden_layers", [4])
field("num_hidden_layers", None)
field("num_hidden_layers", REMOVED, "missing", key="removed")
field("num_attention_heads", 0, mpi=True)
field("num_attention_heads", -8)
field("num_attention_heads", 1 << 31)
field("num_attention_heads", REMOVED, "missing", key="removed")
field("num_key_value_heads", 3)
field("num_key_value_heads", 0)
field("num_key_value_heads", -4)
field("num_key_value_heads", 16)
field("hidden_size", 0)
field("hidden_size", -64)
field("hidden_size", 10**18)
field("hidden_size", {"size": 64})
field("hidden_size", REMOVED, "missing", key="removed")
field("intermediate_size", 0)
field("intermediate_size", REMOVED, "missing", key="removed")
field("vocab_size", 0)
field("vocab_size", 10**12)
field("vocab_size", REMOVED, "missing", key="removed")
field("head_dim", 33)
field("head_dim", 0)
field("head_dim", 1 << 20)
field("max_position_embeddings", 0)
field("max_position_embeddings", -1)
field("rms_norm_eps", "tiny")
field("rms_norm_eps", -1)
field("rope_theta", 0)
field("rope_theta", True)
field("rope_scaling", {"rope_type": "yarn", "factor": 4.0}, "yarn", mpi=True)
field("rope_scaling", [])
field("tie_word_embeddings", "yes")
field("eos_token_id", 99999)
field("eos_token_id", "end")
field("architectures", ["MixtralForCausalLM"], "MixtralForCausalLM", "Qwen3ForCausalLM", mpi=True)
field("architectures", [])
field("quantization_config", {"quant_method": "gptq", "bits": 4}, "gptq", mpi=True)
field("use_sliding_window", True)
field("hidden_act", "relu", "relu")


@bad("config: missing", "config.json", mpi=True)
def config_missing(d):
    os.remove(path(d, "config.json"))


@bad("config: a FIFO", "config.json", "regular", mpi=True)
def config_fifo(d):
    os.remove(path(d, "config.json"))
    os.mkfifo(path(d, "config.json"))


@bad("config: a directory", "config.json")
def config_directory(d):
    os.remove(path(d, "config.json"))
    os.mkdir(path(d, "config.json"))


def text_config(name, text, *texts):
    bad("config: " + name, "config.json", *texts)(lambda d: write(d, "config.json", text))


text_config("empty", "")
text_config("not JSON", "Not Found\n", "line 1")
text_config("cut short", '{"hidden_size": 64,\n"num_hidden_layers"', "line 2")
text_config("a list", "[1, 2]", "object")
text_config("not UTF-8", b'{"hidden_size": "\xff\xfe"}', "hidden_size")
text_config("bomb of lists", '{"hidden_size": ' + "[" * 500000, "hidden_size")
text_config("bomb of objects", '{"a":' * 500000)
text_config("a field twice", '{"hidden_size": 64, "hidden_size": 65}', "hidden_size")


@bad("generation_config: temperature", "generation_config.json", "temperature")
def generation_temperature(d):
    edit_json(d, "generation_config.json", lambda c: c.update(temperature=-1))


@bad("generation_config: not JSON", "generation_config.json")
def generation_text(d):
    write(d, "generation_config.json", "nope")


# What config.json and the weights say does not fit each other: a tensor is named.
def mismatch(name, value, *texts, mpi=False):
    bad(f"config against weights: {name} {value}", "safetensors", *texts,
        mpi=mpi)(lambda d: edit_json(d, "config.json", lambda c: c.update({name: value})))


mismatch("num_hidden_layers", 5, "model.layers.4.", mpi=True)
mismatch("hidden_size", 128, ".weight")
mismatch("hidden_size", 1 << 20, ".weight")
mismatch("intermediate_size", 224, "mlp.", mpi=True)
mismatch("intermediate_size", 1 << 22, "mlp.")
mismatch("vocab_size", 1025, EMBED, mpi=True)
mismatch("vocab_size", 1 << 24, EMBED)
mismatch("num_attention_heads", 16, "self_attn.")
mismatch("num_key_value_heads", 8, "self_attn.")
mismatch("head_dim", 64, "self_attn.")
mismatch("tie_word_embeddings", False, "lm_head.weight", mpi=True)
mismatch("attention_bias", True, ".bias")


# ---- model.safetensors ----

@bad("weights: missing", "safetensors", mpi=True)
def weights_missing(d):
    os.remove(path(d, WEIGHTS))


@bad("weights: a FIFO", WEIGHTS, "FIFO", mpi=True)
def weights_fifo(d):
    os.remove(path(d, WEIGHTS))
    os.mkfifo(path(d, WEIGHTS))


@bad("weights: a directory", WEIGHTS, "directory")
def weights_directory(d):
    os.remove(path(d, WEIGHTS))
    os.mkdir(path(d, WEIGHTS))


@bad("weights: a dangling link", WEIGHTS)
def weights_dangling(d):
    os.remove(path(d, WEIGHTS))
    os.symlink("../blobs/gone", path(d, WEIGHTS))


def resize(name, size, *texts, mpi=False):
    def change(d):
        old = os.path.getsize(path(d, WEIGHTS))
        os.truncate(path(d, WEIGHTS), size if size >= 0 else old + size)
    bad("weights: " + name, WEIGHTS, *texts, mpi=mpi)(change)


resize("empty", 0)
resize("seven bytes", 7)
resize("cut in the header", 1000, "truncated")
resize("cut by one byte", -1, "truncated", mpi=True)
resize("cut in half", 400000, "truncated", "claims", mpi=True)


@bad("weights: bytes too many", WEIGHTS, "data_offsets")
def weights_longer(d):
    with open(path(d, WEIGHTS), "ab") as f:
        f.write(b"\0" * 100)


def length(name, n, *texts, mpi=False):
    def change(d):
        with open(path(d, WEIGHTS), "r+b") as f:
            f.write(struct.pack("<Q", n))
    bad(f"weights: header length {name}", WEIGHTS, "header", *texts, mpi=mpi)(change)


length("0", 0)
length("1", 1)
length("beyond the file", 10_000_000, mpi=True)
length("at the limit", 100_000_000)
length("2^63", 1 << 63)
length("2^64 - 1", (1 << 64) - 1, mpi=True)


def tensor(name, *texts, mpi=False, **fields):
    """Changes fields of a tensor's entry; a value of None removes one."""
    def edit(header):
        header[Q_PROJ].update(fields)
        for key in [k for k, v in header[Q_PROJ].items() if v is None]:
            header[Q_PROJ].pop(key)
    bad("weights: " + name, WEIGHTS, Q_PROJ, *texts, mpi=mpi)(edit_header(edit))


tensor("negative offset", "data_offsets", data_offsets=[-32768, 0], mpi=True)
tensor("offsets backwards", "data_offsets", data_offsets=[32768, 0])
tensor("offset out of range", "data_offsets", data_offsets=[1 << 40, (1 << 40) + 32768], mpi=True)
tensor("offset at 2^63", "data_offsets", data_offsets=[(1 << 63) - 32769, (1 << 63) - 1])
tensor("offsets of another type", "data_offsets", data_offsets="all")
tensor("three offsets", "data_offsets", data_offsets=[0, 1, 2])
tensor("no offsets", "data_offsets", data_offsets=None)
tensor("wrong byte count", "data_offsets", dtype="F32")
tensor("shape overflows", "shape", shape=[1 << 62, 1 << 62], mpi=True)
tensor("shape overflows in bytes", "data_offsets", shape=[1 << 62])
tensor("negative shape", "shape", shape=[-256, -64])
tensor("shape of another type", "shape", shape={"rows": 256})
tensor("no shape", "shape", shape=None)
tensor("no dtype", "dtype", dtype=None)
tensor("shape of a vector", "shape", shape=[256 * 64])
tensor("shape turned", "shape", shape=[64, 256], mpi=True)
tensor("quantized dtype", "F8_E4M3", dtype="F8_E4M3", shape=[512, 64])
tensor("unknown dtype", "Q4_K", dtype="Q4_K")


@bad("weights: overlapping tensors", WEIGHTS, "data_offsets", mpi=True)
@edit_header
def weights_overlap(header):
    header[Q_PROJ]["data_offsets"] = [0, 32768]


@bad("weights: duplicate tensor", WEIGHTS, "duplicate", Q_PROJ)
@edit_header
def weights_duplicate(header):
    text = json.dumps(header)
    entry = f'"{Q_PROJ}": {json.dumps(header[Q_PROJ])}'
    return (text[:-1] + ", " + entry + "}").encode()


bad("weights: missing tensor", WEIGHTS, NORM, "missing",
    mpi=True)(edit_header(lambda h: without(h, NORM)))
bad("weights: missing table", WEIGHTS, EMBED)(edit_header(lambda h: without(h, EMBED)))
bad("weights: header is no JSON", WEIGHTS, "header")(edit_header(lambda h: b"x" * 5000))
bad("weights: header is a list", WEIGHTS, "header")(edit_header(lambda h: b"[" + b" " * 99 + b"]"))
bad("weights: header is a bomb", WEIGHTS, "header")(edit_header(lambda h: b'{"a":' * 200000))
bad("weights: header is not UTF-8", WEIGHTS, "header")(edit_header(lambda h: b'{"\xff": 1}'))
bad("weights: a line break in a name", WEIGHTS, "a?b")(edit_header(lambda h: {"a\nb": 1, **h}))


@bad("weights: Git LFS pointer", WEIGHTS, "LFS")
def weights_lfs(d):
    write(d, WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")


# ---- the index ----

def index(name, *texts, mpi=False):
    return bad("index: " + name, INDEX, "weight_map", *texts, mpi=mpi)


index("parent directory", Q_PROJ,
      mpi=True)(edit_map(lambda m: m.update({Q_PROJ: "../b.safetensors"})))
index("absolute path", Q_PROJ)(edit_map(lambda m: m.update({Q_PROJ: "/etc/passwd"})))
index("subdirectory", Q_PROJ)(edit_map(lambda m: m.update({Q_PROJ: "sub/b.safetensors"})))
index("dot dot", Q_PROJ)(edit_map(lambda m: m.update({Q_PROJ: ".."})))
index("empty name", Q_PROJ)(edit_map(lambda m: m.update({Q_PROJ: ""})))
index("number", Q_PROJ)(edit_map(lambda m: m.update({Q_PROJ: 7})))
index("tensor nowhere", "ghost")(edit_map(lambda m: m.update({"ghost": "a.safetensors"})))
index("tensor in the other file", EMBED)(edit_map(lambda m: m.update({EMBED: "b.safetensors"})))
bad("index: tensor not listed", INDEX, NORM, "missing")(edit_map(lambda m: m.pop(NORM)))
bad("index: missing shard", "c.safetensors", INDEX,
    mpi=True)(edit_map(lambda m: m.update({NORM: "c.safetensors"})))


@bad("index: shard cut short", "b.safetensors", "truncated", mpi=True)
def index_truncated(d):
    shard = path(d, make_shards(d)[1])
    os.truncate(shard, os.path.getsize(shard) - 10)


@bad("index: shard is a FIFO", "b.safetensors", "FIFO")
def index_fifo(d):
    shard = path(d, make_shards(d)[1])
    os.remove(shard)
    os.mkfifo(shard)


def text_index(name, text, *texts):
    def change(d):
        make_shards(d)
        write(d, INDEX, text)
    bad("index: " + name, INDEX, *texts)(change)


text_index("no weight_map", "{}", "weight_map")
text_index("weight_map is a list", '{"weight_map": []}', "weight_map")
text_index("not JSON", "<html>", "line 1")
text_index("bomb", '{"weight_map":' * 100000)


# ---- tokenizer and prompt ----

def tokenizer(name, edit, *texts, mpi=False):
    bad("tokenizer: " + name, "tokenizer.json", *texts,
        mpi=mpi)(lambda d: edit_json(d, "tokenizer.json", edit))


tokenizer("unknown model type", lambda t: t["model"].update(type="Unigram"), "Unigram", mpi=True)
tokenizer("merge of unknown pieces", lambda t: t["model"]["merges"].insert(0, "\u0100\u0101 zzz"),
          "merges")
tokenizer("merge of one piece", lambda t: t["model"]["merges"].insert(0, "abc"), "merges")
tokenizer("merge of another type", lambda t: t["model"]["merges"].insert(0, 7), "merges")
tokenizer("negative id", lambda t: t["model"]["vocab"].update({"a": -1}))
tokenizer("id out of range", lambda t: t["model"]["vocab"].update({"a": 1 << 40}))
tokenizer("no vocab", lambda t: t["model"].pop("vocab"), "vocab")
tokenizer("no model", lambda t: t.pop("model"), "model")
tokenizer("lone surrogate", lambda t: t["added_tokens"][0].update(content="\ud800"))


@bad("tokenizer: missing", "tokenizer.json", mpi=True)
def tokenizer_missing(d):
    os.remove(path(d, "tokenizer.json"))


@bad("tokenizer: a FIFO", "tokenizer.json")
def tokenizer_fifo(d):
    os.remove(path(d, "tokenizer.json"))
    os.mkfifo(path(d, "tokenizer.json"))


def nothing(_):
    pass


bad("prompt: empty", "prompt", mpi=True, args=["--prompt", ""])(nothing)
bad("prompt: not UTF-8", "prompt", "UTF-8", mpi=True, args=["--prompt", b"\xff\xfe"])(nothing)
bad("prompt: longer than the context", "context", mpi=True,
    args=["--prompt", "word " * 400, "--ctx", "64"])(nothing)


# ---- what must work ----

good("as it is", mpi=True)(nothing)
good("reordered header")(edit_header(lambda h: dict(reversed(list(h.items())))))
good("padded header")(edit_header(lambda h: json.dumps(h).encode() + b" " * 4096))
good("shards", mpi=True)(make_shards)


@good("extra tensors")
def extra_tensors(d):
    header, data = read_weights(d)
    end = len(data)
    header["rotary.inv_freq"] = {"dtype": "F64", "shape": [2], "data_offsets": [end, end + 16]}
    header["empty"] = {"dtype": "BF16", "shape": [0, 4], "data_offsets": [end + 16, end + 16]}
    header["newer"] = {"dtype": "X9", "shape": [3], "data_offsets": [end + 16, end + 20]}
    write_weights(d, header, data + b"\1" * 20)


@good("unknown keys")
def unknown_keys(d):
    edit_json(d, "config.json", lambda c: c.update(novelty=[{"a": None}], pad_token_id=-1))
    edit_json(d, "generation_config.json", lambda c: c.update(novelty=True))


@good("transformers' 10^30 for no limit")
def huge_integers(d):
    huge = int(1e30)
    edit_json(d, "config.json", lambda c: c.update(novelty=-huge))
    edit_json(d, "tokenizer_config.json", lambda c: c.update(model_max_length=huge))


@good("links as in the hub's cache", mpi=True)
def hub_links(d):
    blobs = path(d, "blobs")
    os.mkdir(blobs)
    for i, name in enumerate(sorted(os.listdir(MODEL))):
        os.rename(path(d, name), path(blobs, str(i)))
        os.symlink(os.path.join("blobs", str(i)), path(d, name))


@good("no generation_config")
def no_generation_config(d):
    os.remove(path(d, "generation_config.json"))


# A warning, and what comes of it.
@bad("NaN weights", "wrong_result: the model's logits are not finite", mpi=True, code=7)
def nan_weights(d):
    header, data = read_weights(d)
    begin = header[Q_PROJ]["data_offsets"][0]
    write_weights(d, header, data[:begin] + b"\xc0\x7f" * 8 + data[begin + 16:])


# ---- running ----

class Result:
    def __init__(self, code, out, err, seconds, rss_mib):
        self.code, self.out, self.err = code, out, err
        self.seconds, self.rss_mib = seconds, rss_mib


def run(command, tmp):
    """Runs with a deadline; peak memory is the process's own, so mpirun's under mpirun."""
    start = time.monotonic()
    with tempfile.TemporaryFile(dir=tmp) as out, tempfile.TemporaryFile(dir=tmp) as err:
        p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                             start_new_session=True)
        code, rss = None, 0
        while code is None and time.monotonic() < start + TIMEOUT_S:
            pid, status, usage = os.wait4(p.pid, os.WNOHANG)
            if pid:
                code, rss = os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024
            else:
                time.sleep(0.01)
        if code is None:
            os.killpg(p.pid, signal.SIGKILL)
            os.wait4(p.pid, 0)
            code = "timeout"
        p.returncode = 0  # it is reaped
        out.seek(0)
        err.seek(0)
        return Result(code, out.read(), err.read().decode(errors="replace"),
                      time.monotonic() - start, rss)


def faults(case, result, reference, max_rss):
    """What is wrong with the way a run ended, as a list of sentences."""
    found = []
    ours = [line for line in result.err.splitlines() if line.startswith("lockstep:")]
    if case.good:
        if result.code != 0:
            found.append(f"exit {result.code}, expected 0")
        if result.out != reference:
            found.append("another answer than the model as it is")
        if not all(text in result.err for text in case.texts):
            found.append(f"no {case.texts} in stderr")
    else:
        if case.code == 7:  # what is found only in a step
            ours = [line for line in ours if not line.startswith(("lockstep: warning: ", "lockstep: loaded "))]
            found += [] if "values are NaN or infinite" in result.err else ["no warning while loading"]
        if result.code != case.code:
            found.append(f"exit {result.code}, expected {case.code}")
        if len(ours) != 1:
            found.append(f"{len(ours)} lines from lockstep, expected 1")
        found += [f"no '{text}' in the line" for text in case.texts
                  if not any(text in line for line in ours)]
        if result.out.strip():
            found.append("something on stdout")
    if result.rss_mib > max_rss:
        found.append(f"{result.rss_mib:.0f} MiB, expected at most {max_rss}")
    return found


def command_of(case, lockstep, np, model):
    launch = ["mpirun", "-np", str(np)] if np > 1 else []
    return [*launch, lockstep, "generate", "--model", model, "--max-tokens", "1",
            *(case.args or ["--prompt", "x"])]


def try_case(case, np, options, reference, tmp):
    d = tempfile.mkdtemp(dir=tmp)
    for name in os.listdir(MODEL):
        shutil.copyfile(path(MODEL, name), path(d, name))
    case.change(d)
    result = run(command_of(case, options.lockstep, np, d), tmp)
    shutil.rmtree(d)
    return result, faults(case, result, reference, options.max_rss)


def report(case, np, result, found):
    if not found:
        return
    print(f"FAIL np {np} {case.name} ({result.seconds:.1f} s): {'; '.join(found)}")
    for line in result.err.splitlines()[:6]:
        print("     " + line[:300])


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("lockstep")
    p.add_argument("np", type=int, nargs="?", default=1, help="ranks under mpirun, too")
    p.add_argument("--all", action="store_true", help="every case under mpirun, not a selection")
    p.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds TEXT")
    p.add_argument("--max-rss", type=float, default=256, metavar="MIB")
    options = p.parse_args()
    cases = [c for c in CASES if options.only in c.name]
    jobs = [(c, 1) for c in cases]
    if options.np > 1:
        short = bool(os.environ.get("LOCKSTEP_TEST_SHORT")) # sanitizers: one rank meets every case
        jobs += [(c, options.np) for c in cases if options.all or c.mpi and not short]

    failed = 0
    with tempfile.TemporaryDirectory(prefix="lockstep-bad-") as tmp:
        reference = run(command_of(Case("", nothing, ()), options.lockstep, 1, MODEL), tmp).out
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            done = pool.map(lambda job: try_case(*job, options, reference, tmp), jobs)
            for (case, np), (result, found) in zip(jobs, done):
                report(case, np, result, found)
                failed += bool(found)
    print(f"{len(jobs)} runs of {len(cases)} cases, {failed} failed")
    return 1 if failed or not jobs else 0


if __name__ == "__main__":
    sys.exit(main())
