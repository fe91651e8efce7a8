// The convolutions, beside the formula in double.

#include "check.h"

namespace check {
namespace {

const char* const WAY_NAMES[] = {"winograd", "direct", "depthwise", "pointwise", "gathered"};

// One way of convolving, with a random field, and now and then a residual. Where a second draw of each is alike,
// cases are common ones.
struct Case : Fielded {
    int way, activation;
    Convolution shape{};
    Weights weights{};
    Bits x, w, residual;

    Case(int64_t number, bool gradients) : Fielded{{std::mt19937_64(uint64_t(number))}, 0, 0, {}, 1, {}} {
        way = int(number % WAYS);
        // Half of them are done in registers, where there is more to go wrong.
        const int64_t kind = number / WAYS % (2 * ACTIVATIONS);
        activation = int(kind < ACTIVATIONS ? kind : kind % (RELU6 + 1));
        draw_shape();
        if (gradients && way == POINTWISE) draw_places();
        if (gradients && way == DEPTHWISE) draw_bands();
        if (gradients && way == WINOGRAD && random.below(6) == 0) draw_groups();
        samples = shape.samples;
        axes = 0;
        if (shape.slices.out > 1) sizes[axes++] = shape.slices.out;
        for (int64_t size : {shape.out[0], shape.out[1], shape.filters}) sizes[axes++] = size;
        draw_field();
        if (random.below(3) == 0) residual = random.numbers(SINGLE, samples * places);
        // A field that lies as the output does, all but for gaps, takes ways of its own, as do having none and one that
        // is the same everywhere: with a residual too.
        const int64_t alike = random.below(residual.empty() ? 5 : 3);
        const int64_t place = shape.filters + random.below(2) * random.below(3);
        if (alike < 3) terms.assign(alike > 0, {});
        if (alike == 1) {
            int64_t step = place;
            terms[0].strides[axes - 1] = 1;
            for (int64_t a = axes - 2; a >= 0; step *= sizes[a--]) terms[0].strides[a] = step;
            terms[0].values = random.numbers(SINGLE, step);
        }
        if (alike == 2) {
            terms[0].strides[axes - 1] = 1;
            terms[0].values = random.numbers(SINGLE, shape.filters);
        }
        x = random.numbers(SINGLE, samples * shape.slices.size * shape.size[0] * shape.size[1] * shape.channels);
        draw_weights();
        story = "convolution " + std::to_string(number) + " (" + WAY_NAMES[way] + ", " + ACTIVATION_NAMES[activation];
        for (const auto& [name, pair] : {std::pair{"in", shape.size}, {"out", shape.out}, {"kernel", shape.kernel},
                                         {"stride", shape.stride}, {"dilation", shape.dilation}, {"before", shape.before}})
            story += std::string(", ") + name + " " + std::to_string(pair[0]) + "×" + std::to_string(pair[1]);
        const Slices& s = shape.slices;
        for (const auto& [name, number] : {std::pair{"slices in", s.size}, {"out", s.out}, {"kernel", s.kernel}, {"before", s.before}})
            story += std::string(", ") + name + " " + std::to_string(number);
        story += ", " + std::to_string(samples) + "×" + std::to_string(shape.channels) + "→" +
                 std::to_string(shape.filters) + ", " + std::to_string(terms.size()) + " terms" +
                 (residual.empty() ? ")" : ", residual)");
    }

    // Of the instruction sets that it is for.
    int64_t most_lanes() const { return way == WINOGRAD ? std::min(shape.channels, shape.filters) : 16; }

    void draw_shape() {
        const bool winograd = way == WINOGRAD, depthwise = way == DEPTHWISE, pointwise = way == POINTWISE;
        shape.samples = random.below(8) ? 1 + random.below(2) : 0;
        const int64_t least = way == DIRECT || way == GATHERED ? 1 : winograd ? 8 : 16;
        shape.channels = least + random.below(random.below(4) ? 4 : 40);
        // More than are summed up by themselves, twice over.
        if (winograd && random.below(8) == 0) shape.channels = 65 + random.below(40);
        shape.filters = depthwise ? shape.channels : least + random.below(random.below(4) ? 9 : 40);
        // Or weights so many that all threads work on one part of the tiles together.
        const bool common = winograd && random.below(10) == 0;
        if (common) {
            shape.channels = 161 + random.below(20);
            shape.filters = 161 + random.below(20);
        }
        // Or so few that places are taken together, as many as a wide row pays for.
        const bool grouped = way == DIRECT && random.below(2);
        if (grouped) shape.filters = 1 + random.below(3);
        // Or as many as are a vector, whose windows overlap, but with a stride.
        const bool overlapping = way == DIRECT && !grouped && random.below(2);
        if (overlapping) shape.filters = random.below(2) ? 3 + random.below(2) : 5 + random.below(4);
        // Now and then so many that a block of outputs is more than what is finished at a time.
        if (depthwise && random.below(8) == 0) shape.channels = shape.filters = 470 + random.below(60);
        // Or filters so many that they are taken in slices.
        if (pointwise && random.below(8) == 0) {
            shape.channels = 400 + random.below(112);
            shape.filters = 330 + random.below(90);
        }
        // Or weights so many that some of the taps are taken at a time, by all threads together.
        const bool deep = way == GATHERED && random.below(4) == 0;
        if (deep) {
            shape.channels = 250 + random.below(40);
            shape.filters = 64 + random.below(100);
        }
        // Of one row of taps, now and then, or of volumes.
        const bool lines = winograd && random.below(4) == 0;
        if (winograd && random.below(3) == 0) draw_slices(common);
        for (int axis = 0; axis < 2; axis++) {
            constexpr int64_t KERNELS[] = {1, 2, 3, 3, 5, 7, 9};
            shape.kernel[axis] = lines && !axis ? 1 : winograd ? 3 : pointwise ? 1 : deep ? 6 + random.below(2) : KERNELS[random.below(std::size(KERNELS))];
            if (overlapping && axis) shape.kernel[axis] = 3;
            shape.stride[axis] = winograd ? 1 : overlapping && axis ? 1 + !random.below(3) : 1 + random.below(random.below(2) ? 1 : 3);
            // Along a row the direct way takes no dilation.
            shape.dilation[axis] = winograd || (way == DIRECT && axis) ? 1 : 1 + random.below(random.below(2) ? 1 : 3);
            const int64_t most = axis ? grouped ? 150 : common || random.below(2) ? 12 : 40 : depthwise ? 20 : deep ? 4 : 6;
            shape.out[axis] = 1 + random.below(most);
            shape.before[axis] = pointwise ? 0 : random.below(shape.dilation[axis] * (shape.kernel[axis] - 1) + 2);
            // Fewer than are taken together.
            if (grouped && axis && random.below(2)) shape.before[axis] = 1;
            const int64_t reach = (shape.out[axis] - 1) * shape.stride[axis] - shape.before[axis] +
                                  shape.dilation[axis] * (shape.kernel[axis] - 1) + 1;
            shape.size[axis] = std::max<int64_t>(1, pointwise ? reach + random.below(2) : reach - random.below(4));
        }
    }

    void draw_slices(bool few) {
        Slices& s = shape.slices;
        s.kernel = 1 + random.below(few ? 2 : 4);
        s.out = 1 + random.below(few ? 2 : 7);
        s.before = random.below(s.kernel + 1);
        s.size = std::max<int64_t>(1, s.out + s.kernel - 1 - s.before - random.below(3));
    }

    // What gradients are made of in one pass: several blocks of places, now and then more of them than parts; samples
    // on both sides of how many are summed up by themselves.
    void draw_places() {
        shape.samples = random.below(4) ? random.below(4) : 6 + random.below(13);
        shape.channels = 1 + random.below(random.below(4) ? 20 : 70);
        shape.filters = 1 + random.below(random.below(4) ? 20 : 90);
        shape.size[0] = shape.out[0] = 1 + random.below(3);
        shape.size[1] = shape.out[1] = 1 + random.below(random.below(4) ? 90 : shape.samples < 4 ? 500 : 200);
        shape.stride[0] = shape.stride[1] = 1;
    }

    // The same for several bands of rows.
    void draw_bands() {
        if (random.below(2)) return;
        const int64_t more = 40;
        shape.samples = random.below(4) ? random.below(4) : 6 + random.below(13);
        shape.channels = shape.filters = 16 + random.below(9);
        shape.out[0] += more;
        shape.out[1] = 1 + shape.out[1] % 8;
        shape.size[0] += more * shape.stride[0];
        shape.size[1] = std::max<int64_t>(1, (shape.out[1] - 1) * shape.stride[1] - shape.before[1] + shape.dilation[1] * (shape.kernel[1] - 1) + 1);
    }

    // What the gradient of weights is made of in groups of channels and of filters, each in parts of several blocks.
    void draw_groups() {
        shape.samples = 1 + random.below(2);
        shape.channels = 65 + random.below(40);
        shape.filters = 65 + random.below(40);
        for (int axis = 0; axis < 2; axis++) {
            shape.out[axis] = 18 + 15 * axis + random.below(20);
            shape.size[axis] = shape.out[axis] + shape.kernel[axis] - 1 - shape.before[axis];
        }
    }

    // In either of torch's orders, forwards or turned round.
    void draw_weights() {
        const int64_t channels = way == DEPTHWISE ? 1 : shape.channels, taps = taps_of_slice() * shape.slices.kernel;
        w = random.numbers(SINGLE, shape.filters * channels * taps);
        weights.filter = channels * taps;
        const bool last = random.below(2);
        weights.channel = last ? 1 : taps;
        weights.tap[1] = last ? channels : 1;
        weights.tap[0] = shape.kernel[1] * weights.tap[1];
        weights.slice = shape.kernel[0] * weights.tap[0];
        weights.rotated = int(random.below(2));
    }

    int64_t taps_of_slice() const { return shape.kernel[0] * shape.kernel[1]; }

    // Of a filter and a channel, by number: slice by slice, row by row.
    double weight(int64_t filter, int64_t channel, int64_t tap) const {
        if (weights.rotated) tap = shape.slices.kernel * taps_of_slice() - 1 - tap;
        const int64_t slice = tap / taps_of_slice(), i = tap % taps_of_slice() / shape.kernel[1], j = tap % shape.kernel[1];
        return SINGLE.value(w[filter * weights.filter + channel * weights.channel + slice * weights.slice +
                              i * weights.tap[0] + j * weights.tap[1]]);
    }

    // Calls with(place in x, number of the tap) for each that an output reads of a channel.
    template <class With>
    void over_taps(int64_t n, int64_t place, int64_t channel, With with) const {
        const Slices& slices = shape.slices;
        const int64_t column = place % shape.out[1], row = place / shape.out[1] % shape.out[0];
        for (int64_t s = 0; s < slices.kernel; s++)
            for (int64_t i = 0; i < shape.kernel[0]; i++)
                for (int64_t j = 0; j < shape.kernel[1]; j++) {
                    const int64_t d = place / shape.out[1] / shape.out[0] - slices.before + s;
                    const int64_t h = row * shape.stride[0] - shape.before[0] + i * shape.dilation[0];
                    const int64_t v = column * shape.stride[1] - shape.before[1] + j * shape.dilation[1];
                    if (d >= 0 && d < slices.size && h >= 0 && h < shape.size[0] && v >= 0 && v < shape.size[1])
                        with((((n * slices.size + d) * shape.size[0] + h) * shape.size[1] + v) * shape.channels + channel,
                             (s * shape.kernel[0] + i) * shape.kernel[1] + j);
                }
    }
};

double mean_size(const Bits& numbers) {
    double sum = 0;
    for (uint32_t bits : numbers) sum += fabs(SINGLE.value(bits));
    return sum / double(std::max<size_t>(1, numbers.size()));
}

void check_forward(Case& c) {
    const Convolution& s = c.shape;
    std::vector<double> field, size, z, all;
    c.write_out(field, size);
    // Sums of so many products lose more digits.
    const int64_t depth = s.slices.kernel * s.channels;
    const double deep = sqrt(std::max(1.0, double(c.taps_of_slice() * depth) / 4096));
    // Winograd's numbers are as large as those of a whole tile, which may reach beyond what an output reads.
    const double tile = c.way == WINOGRAD ? 8 * 9 * double(depth) * mean_size(c.x) * mean_size(c.w) : 0;
    for (int64_t n = 0; n < c.samples; n++)
        for (int64_t p = 0; p < c.places; p++) {
            const int64_t filter = p % s.filters;
            double sum = 0, sizes = 0;
            for (int64_t channel = 0; channel < (c.way == DEPTHWISE ? 1 : s.channels); channel++) {
                const int64_t read = c.way == DEPTHWISE ? filter : channel;
                c.over_taps(n, p / s.filters, read, [&](int64_t at, int64_t tap) {
                    const double product = SINGLE.value(c.x[at]) * c.weight(filter, channel, tap);
                    sum += product;
                    sizes += fabs(product);
                });
            }
            const double more = c.residual.empty() ? 0 : SINGLE.value(c.residual[n * c.places + p]);
            z.push_back(sum + field[p] + more);
            all.push_back(deep * (sizes + size[p] + fabs(more)));
        }
    over_threads(
        [&](int threads) {
            const Held held(c, true);
            Memory x(c.random, 4, c.x), w(c.random, 4, c.w), y(c.random, 4, int64_t(z.size()));
            Memory packed(c.random, 4, convbias_packed_size(c.way, &s));
            Memory residual(c.random, 4, c.residual);
            const float* added = c.residual.empty() ? nullptr : (const float*)residual.data();
            c.weights.values = (const float*)w.data();
            convbias_pack(c.way, &s, &c.weights, (float*)packed.data(), threads);
            if (!convbias_convolve(c.way, c.activation, &s, (const float*)x.data(), (const float*)packed.data(),
                                   added, (float*)y.data(), &held.field, threads))
                fail("no memory");
            // The same as a step, and there over the residual, where that is allowed.
            const bool over = c.way == POINTWISE && added;
            Memory z(c.random, 4, int64_t(y.bits().size()));
            float* arrays[] = {(float*)x.data(), (float*)residual.data(), (float*)(over ? residual : z).data()};
            const Step step{c.way, c.activation, &s, (const float*)packed.data(), &held.field, 0, added ? 1 : -1, 2};
            if (!convbias_chain(&step, 1, arrays, threads)) fail("no memory");
            if ((over ? residual : z).bits() != y.bits()) fail("a step gives other numbers");
            return std::vector<Bits>{y.bits()};
        },
        [&](const std::vector<Bits>& found) {
            for (size_t i = 0; i < z.size(); i++)
                compare("y", int64_t(i), SINGLE, found[0][i], activated(c.activation, z[i]), all[i] + tile);
        },
        c.most_lanes());
}

// The gradients, some of which are wanted, from that of the output.
void check_gradients(Case& c) {
    const Convolution& s = c.shape;
    const bool depthwise = c.way == DEPTHWISE, plain = s.stride[0] == 1 && s.stride[1] == 1;
    const bool has_weights = !depthwise || (s.kernel[1] > 2 && s.stride[1] <= 2 && s.dilation[1] == 1);
    const bool at_once = c.way == POINTWISE || (depthwise && plain && c.random.below(2));
    const bool input = plain && c.random.below(4), weight = has_weights && c.random.below(4), field = c.random.below(4);
    const int64_t places = c.places, outputs = c.samples * places;
    const Bits saved = c.random.numbers(SINGLE, outputs), gy = c.random.numbers(SINGLE, outputs);
    // Wanted, and how large the numbers are that it is the sum of.
    std::vector<double> gx(c.x.size()), all_gx(gx), gw(c.w.size()), all_gw(gw), sums(places), all_sums(sums);
    for (int64_t at = 0; at < outputs; at++) {
        const int64_t n = at / places, p = at % places, filter = p % s.filters, place = p / s.filters;
        const double given = SINGLE.value(gy[at]), gz = given * slope(c.activation, SINGLE.value(saved[at]));
        const double size = 4 * fabs(given) + fabs(gz);  // slopes are sums too
        sums[p] += gz;
        all_sums[p] += size;
        for (int64_t channel = 0; channel < (depthwise ? 1 : s.channels); channel++)
            c.over_taps(n, place, depthwise ? filter : channel, [&](int64_t from, int64_t tap) {
                const double w = c.weight(filter, channel, tap), x = SINGLE.value(c.x[from]);
                const int64_t taps = s.slices.kernel * c.taps_of_slice();
                const int64_t to = depthwise ? filter * taps + tap : (filter * taps + tap) * s.channels + channel;
                gx[from] += gz * w;
                all_gx[from] += size * fabs(w);
                if (!has_weights) return;
                gw[to] += gz * x;
                all_gw[to] += size * fabs(x);
            });
    }
    Convolution turned = s;
    turned.channels = s.filters;
    turned.filters = s.channels;
    for (int axis = 0; axis < 2; axis++) {
        std::swap(turned.size[axis], turned.out[axis]);
        turned.before[axis] = s.dilation[axis] * (s.kernel[axis] - 1) - s.before[axis];
    }
    std::swap(turned.slices.size, turned.slices.out);
    turned.slices.before = s.slices.kernel - 1 - s.slices.before;
    // Winograd's numbers are as large as those of a whole tile.
    double tile = 0, tiles = 0;
    if (c.way == WINOGRAD && outputs) {
        const double size = std::accumulate(all_sums.begin(), all_sums.end(), 0.0) / double(outputs);
        tile = 8 * 9 * double(s.slices.kernel * s.filters) * mean_size(c.w) * size;
        tiles = 32 * double(outputs / s.filters) * mean_size(c.x) * size;
    }
    over_threads(
        [&](int threads) {
            Memory x(c.random, 4, c.x), w(c.random, 4, c.w), kept(c.random, 4, saved), given(c.random, 4, gy);
            Memory gz(c.random, 4, outputs), of_input(c.random, 4, int64_t(gx.size())),
                of_weight(c.random, 4, int64_t(gw.size())), of_field(c.random, 4, places);
            Weights weights = c.weights;
            weights.values = (const float*)w.data();
            weights.rotated = !weights.rotated;
            if (!depthwise) std::swap(weights.filter, weights.channel);
            const Gradients wanted{c.activation,
                                   (const float*)x.data(),
                                   c.activation == NONE ? nullptr : (const float*)kept.data(),
                                   (const float*)given.data(),
                                   weights,
                                   at_once ? nullptr : (float*)(c.activation == NONE ? given : gz).data(),
                                   input ? (float*)of_input.data() : nullptr,
                                   weight ? (float*)of_weight.data() : nullptr,
                                   field ? (float*)of_field.data() : nullptr};
            if (!convbias_gradients(c.way, &wanted, &s, &turned, threads)) fail("no memory");
            Gradients lacking = wanted;
            lacking.gz = nullptr;
            if (c.way == WINOGRAD && convbias_gradients(c.way, &lacking, &s, &turned, threads)) fail("there is no kernel");
            return std::vector<Bits>{of_input.bits(), of_weight.bits(), of_field.bits()};
        },
        [&](const std::vector<Bits>& found) {
            for (size_t i = 0; input && i < gx.size(); i++)
                compare("gx", int64_t(i), SINGLE, found[0][i], gx[i], all_gx[i] + tile);
            for (size_t i = 0; weight && i < gw.size(); i++)
                compare("gw", int64_t(i), SINGLE, found[1][i], gw[i], all_gw[i] + tiles);
            for (int64_t p = 0; field && p < places; p++)
                compare("sums", p, SINGLE, found[2][p], sums[p], all_sums[p]);
        },
        c.most_lanes());
}

}  // namespace

void turns(int64_t number) {
    Random random{std::mt19937_64(uint64_t(number))};
    const int64_t samples = random.below(4), rows = 1 + random.below(random.below(4) ? 70 : 600), columns = 1 + random.below(70);
    story = "turn " + std::to_string(number) + " (" + std::to_string(samples) + "×" + std::to_string(rows) + "×" +
            std::to_string(columns) + ")";
    const Bits given = random.numbers(SINGLE, samples * rows * columns);
    Bits wanted(given.size());
    for (int64_t n = 0; n < samples; n++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < columns; c++) wanted[(n * columns + c) * rows + r] = given[(n * rows + r) * columns + c];
    over_threads(
        [&](int threads) {
            Memory from(random, 4, given), to(random, 4, int64_t(given.size()));
            convbias_turn((const float*)from.data(), (float*)to.data(), samples, rows, columns, threads);
            return std::vector<Bits>{to.bits()};
        },
        [&](const std::vector<Bits>& found) {
            if (found[0] != wanted) fail("not the same numbers in their places");
        });
}

void convolutions(int64_t number) {
    Case forward(number, false);
    check_forward(forward);
    if (forward.way == DIRECT || forward.way == GATHERED) return;
    Case backward(number, true);
    check_gradients(backward);
}

}  // namespace check
