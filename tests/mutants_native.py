"""Break one line of the own kernels at a time, and see that their check fails: make mutants-native

Prints a line for each; exits 1 where one survives, or where the line to break is no longer there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mutants import ROOT, survivors

CASES = 300
# One instruction set, not optimised: quick to compile, and every line is in it.
COMPILER = [
    *("g++", "-std=gnu++17", "-O0", "-g", "-fopenmp", "-fsanitize=address"),
    "-DCONVBIAS_INSTRUCTIONS=plain",
]
# File, what stands there, and what is put in its place.
MUTANTS = [
    # Rounding.
    ("numbers.h", "bits + 0x7fff + (bits >> 16 & 1)", "bits + 0x8000"),
    ("numbers.h", "bits + 0x7fff + (bits >> 16 & 1)", "bits"),
    ("numbers.h", "number != number ? 0x7fc0 : rounded", "rounded"),
    ("numbers.h", "0xfff + (size >> 13 & 1)", "0x1000"),
    ("numbers.h", "rest < 0x0f800000", "rest <= 0x0f800000"),
    ("numbers.h", "* 0x1p112f", "* 0x1p111f"),
    ("numbers.h", "size < 0x38800000 ? subnormal : normal", "normal"),
    ("numbers.h", "size < 0x38800000", "size < 0x39800000"),
    ("numbers.h", "size < 0x47800000", "size < 0x47000000"),
    ("numbers.h", "size > 0x7f800000 ? 0x7e00", "size > 0x7f800000 ? 0x7c00"),
    ("numbers.h", "sign | (size", "(size"),
    # Activations.
    ("activations.h", "x < -20.0f ? -20.0f", "x < -2.0f ? -2.0f"),
    ("activations.h", "e.scale * e.rest + (e.scale - 1.0f)", "e.scale * (1.0f + e.rest) - 1.0f"),
    ("activations.h", "size > 12.5f ? 0.0f :", "size > 5.0f ? 0.0f :"),
    ("activations.h", "x < 0 ? tail : 1.0f - tail", "x < 0 ? 1.0f - (1.0f - tail) : 1.0f - tail"),
    ("activations.h", "p * r + 4.1666463e-2f", "p * r + 4.2e-2f"),
    ("activations.h", "f * t - 9.2763030e-2f", "f * t - 9.27640e-2f"),
    ("activations.h", "0.044715f", "0.0447f"),
    ("activations.h", "case RELU: return saved <= 0", "case RELU: return saved < 0"),
    ("activations.h", "case LEAKY_RELU: return saved <= 0", "case LEAKY_RELU: return saved < 0"),
    ("activations.h", "saved < 3.0f", "saved <= 3.0f"),
    ("activations.h", "saved <= -3.0f", "saved < -3.0f"),
    # Collapsing axes that lie side by side.
    ("epilogue.cpp", "!term.index[a] && !term.index[a + 1] &&", "!term.index[a] &&"),
    ("epilogue.cpp", "!term.index[a] && !term.index[a + 1] &&", "!term.index[a + 1] &&"),
    ("epilogue.cpp", "all = all && joined(field.term[t]", "all = joined(field.term[t]"),
    ("epilogue.cpp", "term.strides[a + 1] * next_size", "term.strides[a + 1]"),
    ("epilogue.cpp", "field.sizes[a] *= field.sizes[a + 1];", ""),
    ("epilogue.cpp", "field.term[t].strides[a] = field.term[t].strides[a + 1]", ""),
    ("epilogue.cpp", "field.sizes[b] = field.sizes[b + 1]", ""),
    ("epilogue.cpp", "field.term[t].strides[b] = field.term[t].strides[b + 1]", ""),
    ("epilogue.cpp", "field.term[t].index[b] = field.term[t].index[b + 1]", ""),
    # Lines of the field.
    ("epilogue.cpp", "rest = begin / field.sizes[inner]", "rest = begin"),
    ("epilogue.cpp", "rest /= field.sizes[a]", ""),
    ("epilogue.cpp", "term.index[a] ? term.index[a][i] : i", "i"),
    ("epilogue.cpp", "begin % field.sizes[inner], count", "0, count"),
    ("epilogue.cpp", "line.index + line.first", "line.index"),
    ("epilogue.cpp", "values[line.stride * index[i]]", "values[index[i]]"),
    ("epilogue.cpp", "values += line.first;", ""),
    ("epilogue.cpp", "values += line.first * line.stride", "values += line.first"),
    ("epilogue.cpp", "to[i] += values[i * line.stride]", "to[i] += values[i]"),
    ("epilogue.cpp", "field.terms == 1 && field.axes == 1", "field.axes == 1"),
    ("epilogue.cpp", "field.terms == 1 && field.axes == 1", "field.terms == 1"),
    ("epilogue.cpp", "field.axes == 1 && first.strides[0] == 1", "field.axes == 1"),
    ("epilogue.cpp", " && !first.index[0])", ")"),
    ("epilogue.cpp", "return first.values + begin", "return first.values"),
    ("epilogue.cpp", "room[i] = 0", "room[i] = room[i]"),
    ("epilogue.cpp", "least(inner - (begin + done) % inner, count - done)", "least(inner, count - done)"),
    (
        "epilogue.cpp",
        "least(inner - (begin + done) % inner, count - done)",
        "inner - (begin + done) % inner",
    ),
    ("epilogue.cpp", "t < field.terms; t++) add_line", "t < field.terms && t < 3; t++) add_line"),
    # Forward.
    ("epilogue.cpp", "write(z + i, sum);", ""),
    (
        "epilogue.cpp",
        "write(y + i, activate<activation>(sum))",
        "write(y + i, activate<activation>(read(z[i])))",
    ),
    ("epilogue.cpp", "(places + FORWARD_BLOCK - 1) / FORWARD_BLOCK", "places / FORWARD_BLOCK"),
    ("epilogue.cpp", "count = least(places - begin, FORWARD_BLOCK)", "count = FORWARD_BLOCK"),
    ("epilogue.cpp", "samples * (share + 1) / shares", "samples / shares * (share + 1)"),
    # Backward.
    ("epilogue.cpp", "(places + BACKWARD_BLOCK - 1) / BACKWARD_BLOCK", "places / BACKWARD_BLOCK"),
    ("epilogue.cpp", "count = least(places - begin, BACKWARD_BLOCK)", "count = BACKWARD_BLOCK"),
    ("epilogue.cpp", "totals[i] = 0;", ""),
    ("epilogue.cpp", "double totals[BACKWARD_BLOCK]", "float totals[BACKWARD_BLOCK]"),
    ("epilogue.cpp", "                g = (const Number*)gz + at;\n", ""),
    ("epilogue.cpp", "sums[begin + i] = float(totals[i])", "sums[begin + i] += float(totals[i])"),
    # Reduce.
    ("epilogue.cpp", "line.stride * line.index[line.first + i]", "line.stride * line.index[i]"),
    ("epilogue.cpp", "totals[offset] += total", "totals[offset] = total"),
    ("epilogue.cpp", "double total = 0;\n#pragma omp simd", "float total = 0;\n#pragma omp simd"),
    ("epilogue.cpp", "totals + offset + line.first * line.stride", "totals + offset + line.first"),
    ("epilogue.cpp", "least(inner - at % inner, end - at)", "inner - at % inner"),
    ("epilogue.cpp", "one.term[0] = field.term[term]", ""),
    ("epilogue.cpp", "values * 4 > places ? 1 : least(16, places / (values * 4))", "threads"),
    ("epilogue.cpp", "calloc(parts * values", "calloc(values"),
    ("epilogue.cpp", "places * (part + 1) / parts", "places / parts * (part + 1)"),
    ("epilogue.cpp", "part < parts; part++) total +=", "part < 1; part++) total +="),
    ("epilogue.cpp", "    free(totals);\n", ""),
    # Choosing.
    ("dispatch.cpp", "counts[term]", "counts[0]"),
    ("dispatch.cpp", "forked || threads < 1", "threads < 1"),
    ("dispatch.cpp", "!strcmp(known.name, instructions) && ", ""),
]


def main() -> int:
    """Try them all, in a copy of the kernels."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "native"
        shutil.copytree(ROOT / "native", copy)
        subprocess.run([*COMPILER, "-O1", "-c", "check.cpp"], cwd=copy, check=True)
        build = [*COMPILER, "epilogue.cpp", "dispatch.cpp", "check.o", "-o", "check"]

        def fault() -> str | None:
            subprocess.run(build, cwd=copy, check=True)
            ran = subprocess.run(
                ["./check", str(CASES)], cwd=copy, capture_output=True, text=True, check=False
            )
            lines = [line for line in ran.stderr.splitlines() if line.strip("=")]
            return lines[0] if ran.returncode else None

        return int(survivors(copy, MUTANTS, fault) > 0)


if __name__ == "__main__":
    sys.exit(main())
