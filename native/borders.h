// Where windows lie within the image.

#pragma once

#include "convbias.h"
#include "field.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// a/b rounded up, or 0 where a is below that.
inline int64_t rounded_up(int64_t a, int64_t b) { return a <= 0 ? 0 : (a + b - 1) / b; }

// The line of the image that row `i` of the kernel reads for a row of outputs, or −1 beyond the borders.
inline int64_t line_read(const Convolution& c, int64_t row, int64_t i) {
    const int64_t line = row * c.stride[0] - c.before[0] + i * c.dilation[0];
    return line < 0 || line >= c.size[0] ? -1 : line;
}

// The outputs [begin, end) of a row whose windows lie within it.
struct Inside {
    int64_t begin, end;

    explicit Inside(const Convolution& c) : begin(least(c.out[1], rounded_up(c.before[1], c.stride[1]))) {
        const int64_t reach = (c.kernel[1] - 1) * c.dilation[1];
        end = at_least(begin, least(c.out[1], rounded_up(c.size[1] + c.before[1] - reach, c.stride[1])));
    }
};

// The taps [begin, end) of an output's window that do.
struct Taps {
    int64_t begin, end;

    Taps(const Convolution& c, int64_t output) {
        const int64_t window = output * c.stride[1] - c.before[1];
        begin = least(c.kernel[1], rounded_up(-window, c.dilation[1]));
        end = at_least(begin, least(c.kernel[1], rounded_up(c.size[1] - window, c.dilation[1])));
    }
};

// Which of the inputs from where an output's window begins lie within the image, without dilation.
struct Reach {
    int64_t begin, end;

    Reach(const Convolution& c, int64_t output) : begin(c.before[1] - output * c.stride[1]), end(begin + c.size[1]) {}

    bool meets(int64_t input) const { return input >= begin && input < end; }
    bool holds(int64_t inputs) const { return begin <= 0 && end >= inputs; }
};

}  // namespace
}  // namespace CONVBIAS_INSTRUCTIONS
