"""The text of docs/disarm-results.md, with places for what was measured."""

HEAD = """# What disarming keeps, and what it removes

Written by `make results` (`tools/disarm_results.py`); do not edit.

Three questions, each answered by measuring. Does a benign file come through `disarm`
with every bit of its tensors? Does anything hostile come through? And what do
scanners say of the same files, who have to give a verdict where `disarm` gives none?

A published study of this method states a disarm rate of 100 % for malicious pickles.
It gives no count of files, no rate of benign files that survive, and no proof on the
output. Here are all three, and the files by name.

* **Benign**: {survived} of {benign} files survive in all three formats ({survival}).
* **Hostile**: {disarmed} of {hostile} files are disarmed ({rate}).
* **Before**: {fire} of the hostile files make stock readers call the canary, and
  {touch} more make them do something else. **After**: {after} of {outputs} outputs.

Versions: safemodel {ours}, torch {torch}, numpy {numpy}, safetensors {safetensors},
Python {python}, {scanners}.
Run on {machine}; no figure here is a time.

"""

BENIGN = """## Benign files

{files} model files from public repositories, written by other people. Each goes to
`.pt`, `.safetensors` and `.npz`. The output is read by stock readers only:
`torch.load(weights_only=True)`, the safetensors library, `numpy.load` without
pickles.

The reference is what `torch.load(weights_only=True)` says of the *input*, where it
opens it; else it is `safe_load(weights_only=False)`. Of every tensor the name, dtype,
shape and all bits are compared, in a `.pt` also its place, `requires_grad`, and
whether tensors that overlapped in memory still do. All other values have to be equal,
too. What a plain file cannot hold is compared with what [Disarm](disarm.md) says it
becomes.

The archives of Stable-Baselines3 are compared without the pickles in base64 that their
JSON holds: `disarm` removes these on purpose, and lists them.

{table}

{failures}

{refused} files are HDF5 or ONNX, which `disarm` does not read and refuses by name.

What became plain data, and how often: {changed}.

"""

HOSTILE = """## Hostile files

{vectors} vectors of the tests, and {twins} twins of real model files.

A **vector** is one technique of [Attacks](attacks.md). A **twin** is a model of other
people with a payload: {hosts} hosts, {payloads} ways to have code run, {places} places
for it in a pickle, and {containers} tricks with containers. Payloads call a canary and
nothing else. torch has saved the hosts again, from what `weights_only=True` returned of
them, so that no file of strangers is opened unrestricted.

**Stock readers** are `pickle` with its own `find_class`, on the bytes of the file and
on each pickle in an archive; `torch.load(weights_only=False)`; `numpy.load` with
pickles allowed; the safetensors library. They run in a fork of a fresh process under
an audit hook, which records every import, `exec`, `compile`, file, socket, process
and whatever else Python reports. Allowed are: opening the file itself, and numpy
reading the header of an array as a literal.

A file is **disarmed** if each of its six attempts (three formats, with `SALVAGE` and
with `STRICT`) is refused or proven. *Refused*: an error of ours, and nothing in the
folder. *Proven*: stock readers open the output without any event and without the
canary, and `find_class` is asked for nothing but the {names} names of our fixed list;
the reader of its format opens it without an error.

The same hook sees what the files do *before*, so the proof can fail. The table is split
by what it saw. *Something else*: an import, a file, `marshal`, and the like. *Other
names*: `find_class` is asked for names that no output has, harmless ones among them.
Columns of a policy count attempts, the others count files. `STRICT` writes an output of
an armed file where the payload is not part of the object: in a stray record, or behind
the end.

{table}

{failures}

Refused with: {errors}.

"""

SCANNERS = """## Scanners on the same files

A scanner gives a verdict, and somebody has to act on it. The tables show where verdicts
are wrong, in both directions. They are no ranking of scanners:

- The vectors were collected against loaders and scanners: they are the hard cases,
  and no sample of what is out there. Many are no attack that a scanner claims to
  find: files that need too much memory, lie about sizes, or make two readers see two
  files. Hence the split by what stock readers do.
- picklescan and modelscan go by lists of dangerous names, where the canary is not. So
  each file is shown to all tools with `os.system` in the place of the canary (and
  `subprocess.Popen` in the place of its class); the files with the canary are rows of
  their own. Files with `os.system` are scanned and never opened. Where no name can be
  put in place, a file stays as it is: a number of the extension registry, a module
  that does it when imported, a class that does it when filled.
- fickling reports a severity. Its default analysis calls every name outside of the
  standard library unsafe, those of torch included. Its list for machine learning does
  not.

| tool | asked through | flagged is |
|---|---|---|
| picklescan | `scanner.scan_file_path` | a dangerous global; unknown: *suspicious* |
| fickling | `scan_zip_archive`, `scan_file`, by content | severity over `LIKELY_SAFE` |
| fickling, ML list | `MLAllowlist` alone, same pickles | the same |
| modelscan | `ModelScan().scan`, default settings | an issue of any severity |

*Suspicious*: neither of picklescan's lists has the name; its command line still ends
with 0. *Clean*: it looked, and reported nothing. *Not scanned*: it reported nothing
and had not looked at anything. *Error*: it said that it failed, raised, or did not
end in 10 seconds of processor time. A bare pickle is called `.pkl`, where a vector
asks for no other name.

### Benign: {benign} files

{benign_table}

### Hostile

{hostile_table}

### What they miss

Of the {fire} files that call the canary, with `os.system` in its place: those that a
tool calls clean, and those that it does not scan.

{missed}

"""

FILES = """## The files by name

{lists}

Other twins are called by host, payload and place, such as `{example}`.

Hosts: {hosts}.

Payloads: {payloads}.

Places: {places}.

Tricks with containers: {containers}.

## How to repeat it

`make results`. It needs the model files beside the checkout, in `../shared/zoo`, and
a package index for the scanners, which get an environment of their own. The suite
itself proves the output of every light vector and of a twin of each payload, and that
a handful of real files survives: `tests/unit/disarm/test_output.py` and
`tests/test_disarm_results.py`. """
