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

    explicit Case(int64_t number) : Fielded{{std::mt19937_64(uint64_t(number))}, 0, 0, {}, 1, {}} {
        way = int(number % WAYS);
        activation = int(number / WAYS % ACTIVATIONS);
        draw_shape();
        samples = shape.samples;
        axes = 3;
        sizes[0] = shape.out[0];
        sizes[1] = shape.out[1];
        sizes[2] = shape.filters;
        draw_field();
        if (random.below(3) == 0) residual = random.numbers(SINGLE, samples * shape.out[0] * shape.out[1] * shape.filters);
        // A field that lies as the output does, all but for gaps, takes ways of its own, as having none does: with
        // a residual too.
        const int64_t kind = random.below(residual.empty() ? 4 : 2);
        const int64_t place = shape.filters + random.below(2) * random.below(3);
        if (kind < 2) terms.resize(kind);
        if (kind == 1)
            terms[0] = {{shape.out[1] * place, place, 1}, {}, random.numbers(SINGLE, shape.out[0] * shape.out[1] * place)};
        x = random.numbers(SINGLE, samples * shape.size[0] * shape.size[1] * shape.channels);
        draw_weights();
        story = "convolution " + std::to_string(number) + " (" + WAY_NAMES[way] + ", " + ACTIVATION_NAMES[activation];
        for (const auto& [name, pair] : {std::pair{"in", shape.size}, {"out", shape.out}, {"kernel", shape.kernel},
                                         {"stride", shape.stride}, {"dilation", shape.dilation}, {"before", shape.before}})
            story += std::string(", ") + name + " " + std::to_string(pair[0]) + "×" + std::to_string(pair[1]);
        story += ", " + std::to_string(samples) + "×" + std::to_string(shape.channels) + "→" +
                 std::to_string(shape.filters) + ", " + std::to_string(terms.size()) + " terms" +
                 (residual.empty() ? ")" : ", residual)");
    }

    void draw_shape() {
        const bool winograd = way == WINOGRAD, depthwise = way == DEPTHWISE, pointwise = way == POINTWISE;
        shape.samples = random.below(3);
        const int64_t least = way == DIRECT || way == GATHERED ? 1 : 16;
        shape.channels = least + random.below(random.below(4) ? 4 : 40);
        // More than are summed up by themselves, twice over.
        if (winograd && random.below(8) == 0) shape.channels = 65 + random.below(40);
        shape.filters = depthwise ? shape.channels : least + random.below(random.below(4) ? 9 : 40);
        // Or so few that places are taken together, as many as a wide row pays for.
        const bool grouped = way == DIRECT && random.below(2);
        if (grouped) shape.filters = 1 + random.below(3);
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
        for (int axis = 0; axis < 2; axis++) {
            constexpr int64_t KERNELS[] = {1, 2, 3, 3, 5, 7, 9};
            shape.kernel[axis] = winograd ? 3 : pointwise ? 1 : deep ? 6 + random.below(2) : KERNELS[random.below(std::size(KERNELS))];
            shape.stride[axis] = winograd ? 1 : 1 + random.below(random.below(2) ? 1 : 3);
            // Along a row the direct way takes no dilation.
            shape.dilation[axis] = winograd || (way == DIRECT && axis) ? 1 : 1 + random.below(random.below(2) ? 1 : 3);
            const int64_t most = axis ? grouped ? 150 : random.below(2) ? 12 : 40 : depthwise ? 20 : deep ? 4 : 6;
            shape.out[axis] = 1 + random.below(most);
            shape.before[axis] = pointwise ? 0 : random.below(shape.dilation[axis] * (shape.kernel[axis] - 1) + 2);
            const int64_t reach = (shape.out[axis] - 1) * shape.stride[axis] - shape.before[axis] +
                                  shape.dilation[axis] * (shape.kernel[axis] - 1) + 1;
            shape.size[axis] = std::max<int64_t>(1, pointwise ? reach + random.below(2) : reach - random.below(4));
        }
    }

    // In either of torch's orders, forwards or turned round.
    void draw_weights() {
        const int64_t channels = way == DEPTHWISE ? 1 : shape.channels, taps = shape.kernel[0] * shape.kernel[1];
        w = random.numbers(SINGLE, shape.filters * channels * taps);
        weights.filter = channels * taps;
        const bool last = random.below(2);
        weights.channel = last ? 1 : taps;
        weights.tap[1] = last ? channels : 1;
        weights.tap[0] = shape.kernel[1] * weights.tap[1];
        weights.rotated = int(random.below(2));
    }

    double weight(int64_t filter, int64_t channel, int64_t i, int64_t j) const {
        if (weights.rotated) {
            i = shape.kernel[0] - 1 - i;
            j = shape.kernel[1] - 1 - j;
        }
        return SINGLE.value(w[filter * weights.filter + channel * weights.channel + i * weights.tap[0] + j * weights.tap[1]]);
    }

    // Calls with(place in x, row and column of the tap) for each that an output reads of a channel.
    template <class With>
    void over_taps(int64_t n, int64_t row, int64_t column, int64_t channel, With with) const {
        for (int64_t i = 0; i < shape.kernel[0]; i++)
            for (int64_t j = 0; j < shape.kernel[1]; j++) {
                const int64_t h = row * shape.stride[0] - shape.before[0] + i * shape.dilation[0];
                const int64_t v = column * shape.stride[1] - shape.before[1] + j * shape.dilation[1];
                if (h >= 0 && h < shape.size[0] && v >= 0 && v < shape.size[1])
                    with(((n * shape.size[0] + h) * shape.size[1] + v) * shape.channels + channel, i, j);
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
    // Winograd's numbers are as large as those of a whole tile, which may reach beyond what an output reads.
    const double tile = c.way == WINOGRAD ? 8 * 9 * double(s.channels) * mean_size(c.x) * mean_size(c.w) : 0;
    for (int64_t n = 0; n < c.samples; n++)
        for (int64_t p = 0; p < c.places; p++) {
            const int64_t filter = p % s.filters;
            double sum = 0, sizes = 0;
            for (int64_t channel = 0; channel < (c.way == DEPTHWISE ? 1 : s.channels); channel++) {
                const int64_t read = c.way == DEPTHWISE ? filter : channel;
                c.over_taps(n, p / s.filters / s.out[1], p / s.filters % s.out[1], read, [&](int64_t at, int64_t i, int64_t j) {
                    const double product = SINGLE.value(c.x[at]) * c.weight(filter, channel, i, j);
                    sum += product;
                    sizes += fabs(product);
                });
            }
            const double more = c.residual.empty() ? 0 : SINGLE.value(c.residual[n * c.places + p]);
            z.push_back(sum + field[p] + more);
            all.push_back(sizes + size[p] + fabs(more));
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
        });
}

void check_weights(Case& c) {
    const Convolution& s = c.shape;
    const Bits gy = c.random.numbers(SINGLE, c.samples * c.places);
    const int64_t weights = s.kernel[0] * s.kernel[1] * s.channels;
    std::vector<double> wanted(weights), all(weights);
    for (int64_t n = 0; n < c.samples; n++)
        for (int64_t p = 0; p < c.places; p++) {
            const int64_t channel = p % s.channels;
            c.over_taps(n, p / s.channels / s.out[1], p / s.channels % s.out[1], channel, [&](int64_t at, int64_t i, int64_t j) {
                const double product = SINGLE.value(c.x[at]) * SINGLE.value(gy[n * c.places + p]);
                wanted[(i * s.kernel[1] + j) * s.channels + channel] += product;
                all[(i * s.kernel[1] + j) * s.channels + channel] += fabs(product);
            });
        }
    over_threads(
        [&](int threads) {
            Memory x(c.random, 4, c.x), given(c.random, 4, gy), gw(c.random, 4, weights);
            if (!convbias_depthwise_weights(&s, (const float*)x.data(), (const float*)given.data(), (float*)gw.data(), threads))
                fail("no memory");
            return std::vector<Bits>{gw.bits()};
        },
        [&](const std::vector<Bits>& found) {
            for (int64_t i = 0; i < weights; i++) compare("gw", i, SINGLE, found[0][i], wanted[i], all[i]);
        });
}

}  // namespace

void convolutions(int64_t number) {
    Case c(number);
    check_forward(c);
    const Convolution& s = c.shape;
    const bool odd = s.kernel[1] > 2 && s.kernel[1] % 2;
    if (c.way == DEPTHWISE && odd && s.stride[1] <= 2 && s.dilation[1] == 1) check_weights(c);
}

}  // namespace check
