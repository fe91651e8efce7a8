// The kernels of what follows a convolution, beside the formula in double.

#include "check.h"

namespace check {
namespace {

struct Case : Fielded {
    int type, activation;

    explicit Case(int64_t number) : Fielded{{std::mt19937_64(uint64_t(number))}, 0, 0, {}, 1, {}} {
        type = int(number % TYPES);
        activation = int(number / TYPES % ACTIVATIONS);
        samples = random.below(5);
        axes = 1 + random.below(MOST_AXES);
        // On both sides of the kernels' blocks, and of what is worth a second thread.
        constexpr int64_t SIZES[] = {1, 7, 60, 60, 300, 300, 1024, 2048, 4096, 8192, 33000};
        int64_t rest = std::max<int64_t>(1, SIZES[random.below(std::size(SIZES))] - 1 + random.below(3));
        for (int64_t a = 0; a < axes - 1; a++) {
            sizes[a] = 1 + random.below(std::min<int64_t>(rest, 8));
            rest /= sizes[a];
        }
        sizes[axes - 1] = rest;
        std::shuffle(sizes, sizes + axes, random.engine);
        draw_field();
        if (places > 500 && random.below(4) == 0) samples = 1 + 40000 / places;
        story = "case " + std::to_string(number) + " (" + FORMATS[type].name + ", " + ACTIVATION_NAMES[activation] +
                ", " + std::to_string(samples) + " samples of " + std::to_string(sizes[0]);
        for (int64_t a = 1; a < axes; a++) story += "×" + std::to_string(sizes[a]);
        story += ", " + std::to_string(terms.size()) + " terms)";
    }
};

void check_forward(Case& c, bool beside) {
    const Format& format = FORMATS[c.type];
    const Bits z = c.random.numbers(format, c.samples * c.places);
    std::vector<double> field, size;
    c.write_out(field, size);
    over_threads(
        [&](int threads) {
            const Held held(c, true);
            Memory onto(c.random, format.bytes, z), y(c.random, format.bytes, int64_t(z.size()));
            convbias_forward(c.type, c.activation, onto.data(), beside ? y.data() : nullptr, c.samples, &held.field,
                             threads);
            return std::vector<Bits>{onto.bits(), y.bits()};
        },
        [&](const std::vector<Bits>& found) {
            for (size_t i = 0; i < z.size(); i++) {
                const int64_t p = int64_t(i) % c.places;
                const double given = format.value(z[i]), sum = given + field[p], all = fabs(given) + size[p];
                compare(beside ? "y" : "z", i, format, found[beside][i], activated(c.activation, sum), all);
                if (beside) compare("z beside y", i, format, found[0][i], sum, all);
            }
        });
}

void check_backward(Case& c, bool summed) {
    const Format& format = FORMATS[c.type];
    const int64_t count = c.samples * c.places;
    const Bits saved = c.random.numbers(format, count), gy = c.random.numbers(format, count);
    over_threads(
        [&](int threads) {
            Memory from(c.random, format.bytes, saved), given(c.random, format.bytes, gy),
                gz(c.random, format.bytes, count), sums(c.random, 4, c.places);
            const bool needed = c.activation != NONE;
            convbias_backward(c.type, c.activation, needed ? from.data() : nullptr, given.data(),
                              needed ? gz.data() : nullptr, summed ? (float*)sums.data() : nullptr, c.samples,
                              c.places, threads);
            return std::vector<Bits>{needed ? gz.bits() : gy, sums.bits()};
        },
        [&](const std::vector<Bits>& found) {
            for (int64_t i = 0; i < count; i++) {
                const double g = format.value(gy[i]), wanted = g * slope(c.activation, format.value(saved[i]));
                // Slopes are sums whose summands grow as z does.
                compare("gz", i, format, found[0][i], wanted, 4 * fabs(g));
            }
            for (int64_t p = 0; summed && p < c.places; p++) {
                double total = 0;
                for (int64_t n = 0; n < c.samples; n++) total += format.value(found[0][n * c.places + p]);
                if (SINGLE.value(found[1][p]) != float(total))
                    fail("sums[%lld] is %.9g, not %.9g", (long long)p, SINGLE.value(found[1][p]), total);
            }
        });
}

void check_reduce(Case& c) {
    const Bits sums = c.random.numbers(SINGLE, c.places);
    std::vector<int64_t> counts;
    for (const Summand& term : c.terms) counts.push_back(int64_t(term.values.size()));
    over_threads(
        [&](int threads) {
            Memory from(c.random, 4, sums);
            Held held(c, false);
            if (!convbias_reduce((const float*)from.data(), &held.field, counts.data(), threads)) fail("no memory");
            std::vector<Bits> found;
            for (Memory& values : held.values) found.push_back(values.bits());
            return found;
        },
        [&](const std::vector<Bits>& found) {
            for (size_t t = 0; t < c.terms.size(); t++) {
                std::vector<double> totals(counts[t]);
                for (int64_t p = 0; p < c.places; p++) totals[c.value_at(c.terms[t], p)] += SINGLE.value(sums[p]);
                for (int64_t v = 0; v < counts[t]; v++) {
                    // A double's rounding may tip a float's.
                    const double found_value = SINGLE.value(found[t][v]);
                    if (!(fabs(found_value - totals[v]) <= 0.5000001 * SINGLE.unit(totals[v])))
                        fail("values[%lld] of term %zu is %.9g, not %.9g", (long long)v, t, found_value, totals[v]);
                }
            }
        });
}

// Calls the forward kernel on single numbers, each with its own field.
std::vector<Bits> forward_each(Random& random, int type, int activation, const Bits& z, const Bits& field,
                               int threads) {
    Memory onto(random, FORMATS[type].bytes, z), values(random, 4, field);
    const Field lying{1, {int64_t(z.size())}, 1, {{(float*)values.data(), {1}, {}}}};
    convbias_forward(type, activation, onto.data(), nullptr, 1, &lying, threads);
    return {onto.bits()};
}

// To the bit: every number of 16 bits is read and written as it is, and numbers of every size are rounded to
// nearest, ties to even. −0 is what adds nothing.
void check_rounding(int type) {
    const Format& format = FORMATS[type];
    story = std::string("rounding to ") + format.name;
    Random random{};
    const uint32_t nothing = 1u << (format.exponent + format.mantissa);
    Bits z, field;
    for (uint32_t bits = 0; format.bytes == 2 && bits < 0x10000; bits++) {
        z.push_back(bits);
        field.push_back(0x80000000);
    }
    for (int64_t i = 0; i < 200000; i++) {
        const uint32_t bits = uint32_t(random.engine());
        z.push_back(nothing);
        // Halfway between neighbours of either short format, as often as anywhere else.
        field.push_back(i % 3 == 0 ? bits : i % 3 == 1 ? (bits & ~0x7fffu) | 0x8000 : (bits & ~0xfffu) | 0x1000);
    }
    // An infinity stays one, whatever finite number is added: here −1e5.
    z.push_back(((1u << format.exponent) - 1) << format.mantissa);
    field.push_back(0xc7c35000);
    over_threads([&](int threads) { return forward_each(random, type, NONE, z, field, threads); },
                 [&](const std::vector<Bits>& found) {
                     for (size_t i = 0; i < z.size(); i++) {
                         const double exact = format.value(z[i]) + SINGLE.value(field[i]);
                         const double is = format.value(found[0][i]), wanted = format.rounded(exact);
                         const bool both = std::isnan(is) && std::isnan(wanted);
                         if (!both && (is != wanted || std::signbit(is) != std::signbit(wanted)))
                             fail("%.9g became %.9g, not %.9g", exact, is, wanted);
                     }
                 });
}

// Activations keep their digits in their tails, and NaN.
void check_tails(int activation) {
    story = std::string("tails of ") + ACTIVATION_NAMES[activation];
    Random random{};
    Bits z, field;
    for (float x = -30; x <= 30; x += 0.01f) {
        z.push_back(0);
        memcpy(&z.back(), &x, sizeof x);
    }
    z.push_back(0x7fc00000);
    field.resize(z.size(), 0x80000000);
    over_threads([&](int threads) { return forward_each(random, FLOAT32, activation, z, field, threads); },
                 [&](const std::vector<Bits>& found) {
                     for (size_t i = 0; i < z.size(); i++) {
                         const double x = SINGLE.value(z[i]), is = SINGLE.value(found[0][i]);
                         const double wanted = activated(activation, x);
                         if (std::isnan(x) ? !std::isnan(is)
                                           : !(fabs(is - wanted) <= 2e-7 * (2 + x * x) * fabs(wanted) + 1e-34))
                             fail("of %.9g it is %.9g, not %.9g", x, is, wanted);
                     }
                 });
}

// Where sums cancel, what is left is the order in which they were added: that has to be the same too.
void check_order() {
    story = "sums that cancel";
    Random random{};
    Bits sums;
    for (int i = 0; i < 20000; i++) {
        sums.push_back(uint32_t(random.below(80) + 87) << 23 | uint32_t(random.below(1 << 23)));
        sums.push_back(sums.back() | 0x80000000);
    }
    std::shuffle(sums.begin(), sums.end(), random.engine);
    const int64_t counts[] = {1, 8};
    over_threads(
        [&](int threads) {
            Memory from(random, 4, sums), one(random, 4, counts[0]), eight(random, 4, counts[1]);
            const Field field{2, {8, 5000}, 2, {{(float*)one.data(), {}, {}}, {(float*)eight.data(), {1}, {}}}};
            if (!convbias_reduce((const float*)from.data(), &field, counts, threads)) fail("no memory");
            return std::vector<Bits>{one.bits(), eight.bits()};
        },
        [](const std::vector<Bits>&) {});
}

// A forked process does not wait for its parent's threads.
void check_fork() {
    story = "fork";
    Random random{};
    const Bits z(40000), field(40000);
    forward_each(random, FLOAT32, NONE, z, field, MOST_THREADS);
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        forward_each(random, FLOAT32, NONE, z, field, MOST_THREADS);
        _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    if (status) fail("a forked process waits for its parent's threads");
}

}  // namespace

void epilogues(int64_t number) {
    Case c(number);
    for (bool either : {false, true}) {
        check_forward(c, either);
        check_backward(c, either);
    }
    check_reduce(c);
}

void edges() {
    for (int type = 0; type < TYPES; type++) check_rounding(type);
    for (int activation = 0; activation < ACTIVATIONS; activation++) check_tails(activation);
    check_order();
    check_fork();
}

}  // namespace check
