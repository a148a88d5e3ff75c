"""Stand-ins of CUDA's libraries, with which ONNX Runtime's CUDA provider opens graphs where there is no GPU.

What it is: shared libraries that hold every symbol which the provider wants; one GPU of compute capability 9.0, memory
of the model, copies that are made, and kernels that are not. What it shows: which operators the provider takes, and
what is bound where. What it does not know: any number that a GPU would compute.
"""

import subprocess
from pathlib import Path

# The wheel's names; a symbol belongs to the first whose prefix it has.
LIBRARIES = {
    "libcublasLt.so.13": ("cublasLt",),
    "libcublas.so.13": ("cublas",),
    "libcurand.so.10": ("curand",),
    "libcudart.so.13": ("cuda", "__cuda"),
    "libcuda.so.1": ("cu",),
}

_BODIES = """
int cudaMalloc(void **p, size_t n) { *p = malloc(n + 1); return 0; }
int cudaMallocModel(void **p, size_t n) { return cudaMalloc(p, n); }
int cudaHostAlloc(void **p, size_t n, unsigned flags) { return cudaMalloc(p, n); }
int cudaMallocFromPoolAsync(void **p, size_t n, void *pool, void *stream) { return cudaMalloc(p, n); }
int cudaFree(void *p) { free(p); return 0; }
int cudaFreeModel(void *p) { return cudaFree(p); }
int cudaFreeAsync(void *p, void *stream) { return cudaFree(p); }
int cudaMemcpy(void *to, const void *from, size_t n, int kind) { memcpy(to, from, n); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *stream) { memcpy(to, from, n); return 0; }
int cudaMemset(void *p, int value, size_t n) { memset(p, value, n); return 0; }
int cudaMemsetAsync(void *p, int value, size_t n, void *stream) { memset(p, value, n); return 0; }
int cudaEventCreate(void **p) { return cudaMalloc(p, 8); }
int cudaEventCreateWithFlags(void **p, unsigned flags) { return cudaMalloc(p, 8); }
int cudaStreamCreate(void **p) { return cudaMalloc(p, 8); }
int cudaStreamCreateWithFlags(void **p, unsigned flags) { return cudaMalloc(p, 8); }
int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
int cudaGetDevice(int *n) { *n = 0; return 0; }
int cudaDriverGetVersion(int *n) { *n = 13000; return 0; }
int cudaRuntimeGetVersion(int *n) { *n = 13000; return 0; }
int cudaMemGetInfo(size_t *available, size_t *all) { *available = *all = (size_t)8 << 30; return 0; }
int cudaDeviceGetAttribute(int *value, int name, int device) { *value = name == 75 ? 9 : name == 76 ? 0 : 1; return 0; }
int cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
  memset(p, 0, sizeof *p);
  p->major = 9; p->multiProcessorCount = 132; p->warpSize = 32; p->maxThreadsPerBlock = 1024;
  p->totalGlobalMem = (size_t)8 << 30; p->sharedMemPerBlock = 49152; p->sharedMemPerBlockOptin = 232448;
  return 0;
}
const char *cudaGetErrorName(int code) { return "stand-in"; }
const char *cudaGetErrorString(int code) { return "stand-in"; }
void **__cudaRegisterFatBinary(void *binary) { static void *one[4]; return one; }
int cublasCreate_v2(void **p) { *p = malloc(8); return 0; }
int cublasLtCreate(void **p) { *p = malloc(8); return 0; }
"""


def build(provider: Path, headers: Path, folder: Path) -> Path:
    """Writes stand-ins for a provider's library into ``folder`` and returns it; ``headers`` are CUDA's."""
    command = ["nm", "--dynamic", "--undefined-only", str(provider)]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    symbols = {line.split()[-1].partition("@")[0] for line in listed.splitlines()}
    bodies = {line.partition("(")[0].split()[-1].lstrip("*"): line for line in _split(_BODIES)}
    for library, prefixes in LIBRARIES.items():
        mine = sorted(symbol for symbol in symbols if symbol.startswith(prefixes))
        symbols -= set(mine)
        helpers = ["cudaMalloc", "cudaFree"] if library.startswith("libcudart") else []
        lines = [bodies.get(name, f"long {name}(void) {{ return 0; }}") for name in dict.fromkeys([*helpers, *mine])]
        source = folder / f"{library}.c"
        source.write_text("\n".join([_HEAD, *lines]), encoding="utf-8")
        (folder / f"{library}.map").write_text(f"{library} {{ global: *; }};\n", encoding="utf-8")
        link = [f"-Wl,-soname,{library}", f"-Wl,--version-script={folder / library}.map"]
        subprocess.run(
            ["gcc", "-w", "-shared", "-fPIC", f"-I{headers}", str(source), "-o", str(folder / library), *link],
            check=True,
        )
    return folder


# The headers declare some functions otherwise; only their struct is wanted.
_HEAD = "#include <stdlib.h>\n#include <string.h>\n#include <driver_types.h>"


def _split(text: str) -> list[str]:
    """Returns the functions of ``text``, one string each."""
    parts: list[str] = []
    for line in text.strip().splitlines():
        if line.startswith((" ", "}")):
            parts[-1] += f"\n{line}"
        else:
            parts.append(line)
    return parts
