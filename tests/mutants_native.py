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

CASES = 400
# One instruction set, whose kernels are not optimised: quick to compile, and every line is in it. What a
# broken line is no part of is not compiled again.
RULES = """
CXX = g++
CXXFLAGS = -std=gnu++17 -g -fopenmp -fsanitize=address -DCONVBIAS_INSTRUCTIONS=plain -MMD
check: $(patsubst %.cpp,%.o,$(wildcard *.cpp))
\t$(CXX) $(CXXFLAGS) $^ -o $@
check%.o: CXXFLAGS += -O1
-include *.d
"""
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
    ("activations.h", "saved >= 6.0f", "saved > 6.0f"),
    ("activations.h", "case LEAKY_RELU: return saved <= 0", "case LEAKY_RELU: return saved < 0"),
    ("activations.h", "saved >= 3.0f", "saved > 3.0f"),
    ("activations.h", "saved <= -3.0f", "saved < -3.0f"),
    # Collapsing axes that lie side by side.
    ("field.h", "!term.index[a] && !term.index[a + 1] &&", "!term.index[a] &&"),
    ("field.h", "!term.index[a] && !term.index[a + 1] &&", "!term.index[a + 1] &&"),
    ("field.h", "all = all && joined(field.term[t]", "all = joined(field.term[t]"),
    ("field.h", "term.strides[a + 1] * next_size", "term.strides[a + 1]"),
    ("field.h", "field.sizes[a] *= field.sizes[a + 1];", ""),
    ("field.h", "field.term[t].strides[a] = field.term[t].strides[a + 1]", ""),
    ("field.h", "field.sizes[b] = field.sizes[b + 1]", ""),
    ("field.h", "field.term[t].strides[b] = field.term[t].strides[b + 1]", ""),
    ("field.h", "field.term[t].index[b] = field.term[t].index[b + 1]", ""),
    # Lines of the field.
    ("field.h", "line /= field.sizes[a];", ""),
    ("field.h", "at[a] = line % field.sizes[a];", "at[a] = line;"),
    ("field.h", "if (++at[a] < field.sizes[a]) return;", "++at[a]; return;"),
    ("field.h", "at[a] = 0;", ""),
    ("field.h", "term.index[a] ? term.index[a][place.at[a]] : place.at[a]", "place.at[a]"),
    ("field.h", "line.index + line.first", "line.index"),
    ("field.h", "values[line.stride * index[i]]", "values[index[i]]"),
    ("field.h", "values += line.first;", ""),
    ("field.h", "values += line.first * line.stride", "values += line.first"),
    ("field.h", "values[i * line.stride] + (more", "values[i] + (more"),
    ("field.h", "field.terms == 1 && field.axes == 1", "field.axes == 1"),
    ("field.h", "field.terms == 1 && field.axes == 1", "field.terms == 1"),
    ("field.h", "field.axes == 1 && first.strides[0] == 1", "field.axes == 1"),
    ("field.h", "first.strides[0] == 1 && !first.index[0];", "first.strides[0] == 1;"),
    ("field.h", "return field.term[0].values + begin", "return field.term[0].values"),
    ("field.h", "least(inner - first, count - done)", "least(inner, count - done)"),
    ("field.h", "least(inner - first, count - done)", "inner - first"),
    ("field.h", "t ? read_line<true>", "t > 1 ? read_line<true>"),
    ("field.h", "        first = 0;\n", ""),
    ("field.h", "field.sizes[1] == channels && first.strides[0] == 0 &&", "field.sizes[1] == channels &&"),
    ("field.h", "field.axes == 2 && field.sizes[1] == channels &&", "field.axes == 2 &&"),
    ("field.h", "           first.strides[1] == 1 && !first.index[0]", "           !first.index[0]"),
    ("field.h", "field.terms == 1 && field.axes == 2", "field.axes == 2"),
    # Forward.
    ("field.h", "write(z + i, sum);", ""),
    (
        "field.h",
        "write(y + i, activate<activation>(sum))",
        "write(y + i, activate<activation>(read(z[i])))",
    ),
    ("epilogue.cpp", "(places + FORWARD_BLOCK - 1) / FORWARD_BLOCK", "places / FORWARD_BLOCK"),
    ("epilogue.cpp", "count = least(places - begin, FORWARD_BLOCK)", "count = FORWARD_BLOCK"),
    ("epilogue.cpp", "samples * (cut + 1) / cuts", "samples / cuts * (cut + 1)"),
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
    ("epilogue.cpp", "least(inner - first, end - at)", "inner - first"),
    ("epilogue.cpp", "        first = 0;\n", ""),
    ("epilogue.cpp", "one.term[0] = field.term[term]", ""),
    ("epilogue.cpp", "values * 4 > places ? 1 : least(16, places / (values * 4))", "threads"),
    ("epilogue.cpp", "calloc(parts * values", "calloc(values"),
    ("epilogue.cpp", "places * (part + 1) / parts", "places / parts * (part + 1)"),
    ("epilogue.cpp", "part < parts; part++) total +=", "part < 1; part++) total +="),
    ("epilogue.cpp", "    free(totals);\n", ""),
    # How threads share.
    ("shares.h", "units * (i + 1) / shares", "units / shares * (i + 1)"),
    ("shares.h", "threads < MOST ? threads : MOST", "threads"),
    ("shares.h", "(omp_get_thread_num() + turn) % shares", "omp_get_thread_num() % shares"),
    ("shares.h", "__ATOMIC_RELAXED)) < from.end", "__ATOMIC_RELAXED)) <= from.end"),
    # What is done while numbers are in registers or in the cache.
    ("finishing.h", "sum < low ? low : sum", "sum"),
    ("finishing.h", "sum > high ? high : sum", "sum"),
    ("finishing.h", "activation == RELU6 ? 6", "activation != NONE ? 6"),
    ("finishing.h", "!fused ? nullptr :", "false ? nullptr :"),
    ("finishing.h", "i < longest; i += channels", "i < channels; i += channels"),
    ("finishing.h", "least(channels, longest - i) * sizeof(float)", "sizeof(float)"),
    ("finishing.h", "if (repeated) return finish(z, repeated, count);", "if (repeated) return;"),
    ("finishing.h", "(lies || repeated || !field.terms)", "true"),
    ("winograd.cpp", "f / panel_count, f % panel_count", "f % panel_count, f / panel_count"),
    ("winograd.cpp", "share(FREQUENCIES * panel_count, threads", "share(FREQUENCIES, threads"),
    ("winograd.cpp", "row.last(row.first<starts>(at) + done[j])", "row.last(done[j])"),
    ("winograd.cpp", "row.last(row.first<starts>(at) + done[j])", "row.first<starts>(at) + done[j]"),
    ("winograd.cpp", "int64_t at = first;", "int64_t at = 0;"),
    ("finishing.h", "activation <= RELU6 &&", "activation <= LEAKY_RELU &&"),
    ("finishing.h", "fused && activation != NONE ? 0", "fused ? 0"),
    ("finishing.h", "read_field(field, begin + done", "read_field(field, begin"),
    ("finishing.h", "field.terms || activation != NONE", "activation != NONE"),
    ("finishing.h", "start ? start : other", "start"),
    ("finishing.h", "start ? other : nullptr", "nullptr"),
    ("finishing.h", "residual + n * places + begin", "residual + begin"),
    ("finishing.h", "start + load(starts[1] + at)", "start"),
    # Products of matrices.
    ("multiply.h", "v < V - 1 ? load(at) : load_some(at, last)", "load(at)"),
    ("multiply.h", "if (starts[1]) start_from<true>", "if (false) start_from<true>"),
    ("multiply.h", "start_from<true>(sums, starts[1]", "start_from<false>(sums, starts[1]"),
    (
        "multiply.h",
        "if (last < LANES) {",
        "if (last < 0) {",
    ),
    ("multiply.h", "to.step, s > 1)", "to.step, true)"),
    ("multiply.h", "to.step, s > 1)", "to.step, false)"),
    ("multiply.h", "rows.apart && rows.segments > 1", "rows.apart && rows.segments > 2"),
    ("multiply.h", "(count + most - 1) / most", "count / most + (count < most)"),
    ("multiply.h", "filters > LANES ? ROWS : tall", "tall"),
    ("multiply.h", "offset = first * rows.step", "offset = 0"),
    ("multiply.h", "first * to.step + column", "first * to.step"),
    ("multiply.h", "begin * V * LANES", "begin * LANES"),
    # Winograd.
    ("winograd.h", "tile.row - c.before[0]", "tile.row"),
    ("winograd.h", "line < size[0]", "line <= size[0]"),
    ("winograd.h", "at_least(0, -column)", "0"),
    ("winograd.h", "least(SIDE, size[1] - column)", "SIDE"),
    ("winograd.h", "j >= begin && j < end", "j < end"),
    ("winograd.h", "if (there) at =", "at ="),
    ("winograd.h", "whole && begin == 0 && end == SIDE", "whole"),
    ("winograd.cpp", "at = hidden(at + filters)", "at = hidden(at)"),
    ("winograd.cpp", "put_tile<2> :", "put_tile<1> :"),
    ("winograd.cpp", "starts[0] += i * start_line", "starts[0] += i * line"),
    ("finishing.h", "fused && repeated ? 0 : line", "line"),
    ("finishing.h", "fused && repeated ? 0 : line", "repeated ? 0 : line"),
    ("finishing.h", "fused && repeated ? 0 : line", "0"),
    ("multiply.h", "STEPS > 1 && depth > 0", "STEPS > 1 && depth > 1"),
    ("multiply.h", "hidden(from + 1)", "hidden(from)"),
    ("winograd.h", "least(channel, count - LANES)", "channel"),
    ("winograd.cpp", "least(filter, filters - LANES)", "filter"),
    ("winograd.cpp", "if (j < columns) store", "store"),
    ("winograd.cpp", "if (i >= rows) break;", ""),
    ("winograd.cpp", "columns * c.filters);", "TILE * c.filters);"),
    # Weights, and the lines of the image.
    ("weights.h", "w.rotated ? c.kernel[0] - 1 - i : i", "i"),
    ("weights.h", "w.rotated ? c.kernel[1] - 1 - j : j", "j"),
    ("borders.h", "line < 0 || line >= c.size[0] ? -1", "line < 0 ? -1"),
    ("winograd.cpp", "l < filters ? from[k * w.channel] : 0.0f", "from[k * w.channel]"),
    ("winograd.h", "f = d[4] - 0.5f * d[2]", "f = d[4] - 0.51f * d[2]"),
    ("winograd.h", "(2 * ROOT) * f", "(2.02f * ROOT) * f"),
    ("winograd.cpp", "if (!tiles.count) return true;", ""),
    ("winograd.h", "t / tiles.across % tiles.down * TILE", "t / tiles.across * TILE"),
    ("winograd.cpp", "tiles.count * (part + 1) / parts", "tiles.count / parts * (part + 1)"),
    (
        "winograd.cpp",
        "{from + done, least(chunk, channels - done), done}",
        "{from + done, least(chunk, channels - done), 0}",
    ),
    # The direct way.
    ("direct.cpp", "j - filter / c.filters * c.stride[1]", "j - filter / c.filters"),
    ("direct.cpp", "w, filter % c.filters, channel", "w, filter, channel"),
    ("direct.cpp", "begin < 0 ? -begin : 0", "0"),
    ("direct.cpp", "least(length, c.size[1] - begin)", "length"),
    ("direct.cpp", "if (rest > 0) multiply", "if (rest < 0) multiply"),
    ("direct.cpp", "groups + (rest > 0)", "groups"),
    ("direct.cpp", "g.depth, i * g.depth", "g.depth, rows.segments * g.depth"),
    ("direct.cpp", "(pixels - 1) * c.stride[1]", "(pixels - 1)"),
    # The pointwise way.
    ("panels.h", "filter < c.filters ? *weight_at", "true ? *weight_at"),
    ("panels.h", "least(PANEL, packed_filters(c.filters) - panel * PANEL)", "PANEL"),
    ("pointwise.cpp", "place % across * part", "place % across"),
    ("pointwise.cpp", "least(part, c.out[1] - first)", "part"),
    ("pointwise.cpp", "number / (c.samples * places) * slice", "0"),
    ("pointwise.cpp", "share ? in_slice / c.samples :", ""),
    ("pointwise.cpp", "u.row * c.stride[0]", "u.row"),
    ("pointwise.cpp", "u.first * c.stride[1]", "u.first"),
    ("pointwise.cpp", "rows.step = c.stride[1] * c.channels", "rows.step = c.channels"),
    ("pointwise.cpp", "least(PANEL, end - filter)", "PANEL"),
    ("pointwise.cpp", "if (cut.slices == 1) finish", "finish"),
    ("pointwise.cpp", "if (cut.slices == 1) finish", "if (false) finish"),
    ("pointwise.cpp", "cut.slices > 1 && !finish", "false && !finish"),
    # The gathered way.
    ("gathered.cpp", "outputs * place / places", "outputs / places * place"),
    ("gathered.cpp", "number % c.samples, first", "0, first"),
    ("gathered.cpp", "b.sample * c.size[0] + line", "line"),
    ("gathered.cpp", "line < 0 || place < 0 ||", "place < 0 ||"),
    ("gathered.cpp", "line < 0 || place < 0 ||", "line < 0 ||"),
    ("gathered.cpp", "|| place >= c.size[1] ?", "?"),
    ("gathered.cpp", "j * c.dilation[1]", "j"),
    ("gathered.cpp", "column * c.stride[1]", "column"),
    ("gathered.cpp", "column = 0, row++", "row++"),
    ("gathered.cpp", "channel < c.channels; channel++) *to++", "channel < 0; channel++) *to++"),
    ("gathered.cpp", "least(MOST_SEGMENTS, at_least(1,", "least(1000, at_least(1000,"),
    ("gathered.cpp", "if (before) ends", "if (false) ends"),
    ("gathered.cpp", "if (more) ends", "if (false) ends"),
    ("gathered.cpp", "{{to}, ends.low, ends.high, ends.past}", "{{to}}"),
    ("gathered.cpp", "t * c.channels};", "0};"),
    ("gathered.cpp", "tap * blocks.tap, taps", "0, taps"),
    ("gathered.cpp", "weights += taps * c.channels * width", "weights += taps * c.channels * PANEL"),
    ("gathered.cpp", "least(PANEL, c.filters - filter)", "PANEL"),
    ("gathered.cpp", "!finish.inside()", "false"),
    ("gathered.cpp", "last; b++) products.finish_block(b);", "first; b++) products.finish_block(b);"),
    ("gathered.cpp", "if (!blocks.count) return true;", ""),
    ("multiply.h", "from += GATHERED", "from += LINE"),
    ("multiply.h", "for (; depth > LINE; depth", "for (; depth >= LINE + LINE; depth"),
    # Depthwise, and its weights.
    ("borders.h", "begin = least(c.kernel[1], rounded_up(-window, c.dilation[1]))", "begin = 0"),
    ("borders.h", "rounded_up(c.size[1] - window, c.dilation[1])", "c.kernel[1]"),
    ("borders.h", "rounded_up(c.before[1], c.stride[1])", "0"),
    ("borders.h", "c.before[1] - reach", "c.before[1]"),
    ("depthwise.h", "first + R <= last", "first + R < last"),
    ("depthwise.h", "o % S == 0 && ", ""),
    ("depthwise.h", "least(channel, c.channels - LANES)", "channel"),
    ("depthwise.h", "least(c, lines.channels - V * LANES)", "c"),
    ("depthwise.h", "c.dilation[1] == 1 && c.stride[1] <= 2", "c.stride[1] <= 2"),
    ("depthwise_gradients.cpp", "2 * part + over", "2 * part"),
    ("depthwise_gradients.cpp", "i % c.channels >= whole", "false"),
    ("depthwise_gradients.cpp", "l] += double(all", "l] = double(all"),
    ("depthwise_gradients.cpp", "if (reach.holds((R - 1) * S + K))", "if (true)"),
    ("depthwise_gradients.cpp", "first * S * pair.step", "first * pair.step"),
    ("depthwise_gradients.cpp", "first + R <= c.out[1]", "first + R < c.out[1]"),
    ("depthwise.h", "if (reach.holds((R - 1) * S + K))", "if (true)"),
    ("depthwise.h", "if (reach.holds((R - 1) * S + K))", "if (reach.holds((R - 1) * S))"),
    ("depthwise.cpp", "first + in_group % samples, in_group / samples", "first, in_group / samples"),
    ("borders.h", "input >= begin && input < end", "input < end"),
    ("borders.h", "input >= begin && input < end", "input >= begin"),
    ("borders.h", "begin(c.before[1] - output * c.stride[1])", "begin(c.before[1] - output)"),
    ("borders.h", "return begin <= 0 && end >= inputs;", "return begin <= 0;"),
    ("borders.h", "return begin <= 0 && end >= inputs;", "return end >= inputs;"),
    (
        "depthwise_gradients.cpp",
        "part < parts; part++)\n                total +=",
        "part < 1; part++)\n                total +=",
    ),
    ("depthwise.h", "(line - first) * c.size[1]", "line * c.size[1]"),
    ("depthwise_gradients.cpp", "least(row, input - turned.before[0])", "row"),
    ("depthwise_gradients.cpp", "at_least(row + band.rows, input", "least(row + band.rows, input"),
    ("depthwise_gradients.cpp", "input + band.inputs - turned.before[0] + reach", "input + band.inputs"),
    (
        "depthwise_gradients.cpp",
        "wanted.saved ? wanted.saved : wanted.gy) + from",
        "wanted.saved ? wanted.saved : wanted.gy) + begin",
    ),
    (
        "depthwise_gradients.cpp",
        "rows = at_least(rows, band(b).to - band(b).from)",
        "rows = band(b).to - band(b).from",
    ),
    ("depthwise_gradients.cpp", "weights.add_row(b, wanted.x + n * image", "weights.add_row(b, wanted.x"),
    ("depthwise_gradients.cpp", "gz + (band.row - band.from) * line", "gz"),
    # Pointwise gradients in one pass, and the field's.
    ("pointwise_gradients.cpp", "/ LINE | 1) * LINE", "/ LINE / 2 | 1) * LINE"),
    ("pointwise_gradients.cpp", "if (own) memset(own, 0, weights * sizeof(float));", ""),
    ("pointwise_gradients.cpp", "omp_get_thread_num() * BLOCK * step", "0"),
    ("outer.h", "sums + columns * k + first * wide", "sums + columns * k + first * PANEL"),
    ("outer.h", "if (wide > LANES)", "if (true)"),
    ("outer.h", "(columns + ROWS - 1) / ROWS", "columns / ROWS"),
    ("pointwise_gradients.cpp", "least(PANEL, c.channels - channel)", "PANEL"),
    ("pointwise_gradients.cpp", "turned + channel * filters", "turned + channel"),
    ("pointwise_gradients.cpp", "l < least(wide, filters - k)", "l < wide"),
    ("pointwise_gradients.cpp", "wide, part == 0)", "wide, true)"),
    ("pointwise_gradients.cpp", "wanted.saved ? wanted.saved + (at + r) * filters : gy", "gy"),
    ("pointwise_gradients.cpp", "n * cut.places + b.first;", "b.first;"),
    ("sums.h", "n % GROUP == 0", "n == 0"),
    ("sums.h", "n % GROUP == 0", "true"),
    ("sums.h", "&& !last", ""),
    ("sums.h", "count, n < GROUP)", "count, true)"),
    ("sums.h", "omp_get_thread_num() * longest", "0"),
    ("sums.h", "if (sums && !samples)", "if (false)"),
    ("winograd.h", "b = g[0] + 0.5f * g[2]", "b = g[0] + 0.51f * g[2]"),
    ("winograd.h", "to[5] = g[3]", "to[5] = g[2]"),
    ("winograd.h", "first + at, to + at, step", "at, to + at, step"),
    ("winograd.h", "(1.0f / 6) * e", "(1.01f / 6) * e"),
    ("winograd.h", "(ROOT / 3) * b", "(ROOT / 3.03f) * b"),
    ("winograd.h", "m[5] + (1.0f / 3)", "(1.0f / 3)"),
    ("winograd_gradients.cpp", "group % channel_groups", "group / filter_groups"),
    ("winograd_gradients.cpp", "group / channel_groups", "group % filter_groups"),
    ("winograd_gradients.cpp", "omp_get_thread_num() * ROOM", "0"),
    ("winograd_gradients.cpp", "if (!c.samples) {", "if (false) {"),
    ("winograd_gradients.cpp", "blocks * (part + 1) / parts", "blocks / parts * (part + 1)"),
    ("winograd_gradients.cpp", "tiles.count * (b + 1) / blocks", "tiles.count / blocks * (b + 1)"),
    ("winograd_gradients.cpp", "windows + t * width", "windows + t * channels.count"),
    ("winograd_gradients.cpp", "(filters.first + k)", "k"),
    ("winograd_gradients.cpp", "+ channels.first + channel,", "+ channel,"),
    ("winograd_gradients.cpp", "k * wide + channel - panel", "k * PANEL + channel - panel"),
    ("winograd_gradients.cpp", "if (count == LANES)", "if (true)"),
    ("winograd_gradients.cpp", "tile.sample * c.out[0] * c.out[1] * c.filters", "0"),
    ("winograd_gradients.cpp", "part == 0", "true"),
    ("winograd_gradients.cpp", "least(STRETCH, weights - first)", "STRETCH"),
    # Choosing.
    ("dispatch.cpp", "counts[term]", "counts[0]"),
    ("dispatch.cpp", "if (!g.gz)", "if (way == POINTWISE)"),
    ("dispatch.cpp", "if (g.activation != NONE || g.sums)", "if (g.sums)"),
    ("dispatch.cpp", "if (g.activation != NONE || g.sums)", "if (g.activation != NONE)"),
    ("dispatch.cpp", "s->residual < 0 ?", "true ?"),
    ("dispatch.cpp", "arrays[s->x], s->packed", "arrays[0], s->packed + 1"),
    ("dispatch.cpp", "forked || threads < 1", "threads < 1"),
    ("dispatch.cpp", "!strcmp(known.name, instructions) && ", ""),
]


def main() -> int:
    """Try them all, in a copy of the kernels."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "native"
        shutil.copytree(ROOT / "native", copy)
        (copy / "Makefile").write_text(RULES, "utf-8")

        def fault(_: str) -> str | None:
            subprocess.run(["make", "--silent", "--jobs=2"], cwd=copy, check=True)
            ran = subprocess.run(
                ["./check", str(CASES)], cwd=copy, capture_output=True, text=True, check=False
            )
            lines = [line for line in ran.stderr.splitlines() if line.strip("=")]
            return lines[0] if ran.returncode else None

        return int(survivors(copy, MUTANTS, fault) > 0)


if __name__ == "__main__":
    sys.exit(main())
