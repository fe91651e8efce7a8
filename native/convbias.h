// What the library offers to Python: plain C, raw pointers, nothing of torch.
//
// An output is a dense array of N samples of P numbers, P = ∏sizes, whatever its layout: `sizes` are its
// axes in the order in which they lie in memory, the innermost last. No size is 0; there may be no samples.

#pragma once

#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

constexpr int MOST_AXES = 4;
constexpr int MOST_TERMS = 4;

// One summand of a bias field, in compact form: the number of the place (i₀, i₁, …) is
// values[Σₐ strides[a] · index[a][iₐ]]. A stride of 0 shares an axis; a missing index is iₐ itself.
struct Term {
    float* values;
    int64_t strides[MOST_AXES];
    const int32_t* index[MOST_AXES];
};

struct Field {
    int64_t axes;
    int64_t sizes[MOST_AXES];
    int64_t terms;
    Term term[MOST_TERMS];
};

enum Type : int { FLOAT32, BFLOAT16, FLOAT16, TYPES };

enum Activation : int { NONE, RELU, RELU6, LEAKY_RELU, SIGMOID, TANH, GELU, GELU_TANH, SILU, HARDSWISH, ACTIVATIONS };

// The first axis of volumes, along which images lie one after another: how many there are of the input and of the output,
// and how many each output is made of, one after another too, the first of them `before` the first one's.
struct Slices {
    int64_t size = 1, out = 1, kernel = 1, before = 0;
};

// A convolution of images in channels_last, with zeros beyond their borders: C channels into K filters, which
// with groups (depthwise) are as many. Of several slices there is Winograd's alone.
struct Convolution {
    int64_t samples, channels, filters;
    int64_t size[2], out[2], kernel[2], stride[2], dilation[2], before[2];
    Slices slices;
};

// Weights anywhere in memory: of filter k, channel c, slice s and tap (i, j) at k, c, s, i and j times the strides.
// Rotated ones are read with the taps turned round, as the gradient of the input wants them.
struct Weights {
    const float* values;
    int64_t filter, channel, slice, tap[2];
    int rotated;
};

// Winograd's, of kernels of three taps in one row or three, and the depthwise ones take at least as many channels and
// filters as a vector holds (16 are always enough).
enum Way : int { WINOGRAD, DIRECT, DEPTHWISE, POINTWISE, GATHERED, WAYS };

// y = act(z + field), in float32 arithmetic. Without `y` it is written over z; with it, z becomes z + field,
// which the derivative of some activations needs.
void convbias_forward(int type, int activation, void* z, void* y, int64_t samples, const Field* field,
                      int threads);

// gz = gy · act′, and, where `sums` is given, sums[p] = Σₙ gz[n, p]. `saved` is y for the activations up to
// TANH and z for the others. Without activation gz is gy, and neither `saved` nor `gz` is used.
void convbias_backward(int type, int activation, const void* saved, const void* gy, void* gz, float* sums,
                       int64_t samples, int64_t places, int threads);

// The gradient of each term's values from that of the whole field: values[…] = Σ of sums over the places that
// share them. `counts` says how many values each term has. 0 where there is no memory for it.
int convbias_reduce(const float* sums, const Field* field, const int64_t* counts, int threads);

// What each way of convolving makes of the weights, once, for all calls of one shape: its numbers depend on the
// shapes of the kernel and the outputs, and on the instruction set.
int64_t convbias_packed_size(int way, const Convolution* convolution);
void convbias_pack(int way, const Convolution* convolution, const Weights* weights, float* packed, int threads);

// y = act(x ∗ weights + field + residual), float32. A field may have no terms; a residual, which lies as y does, may
// be null. 0 where there is no memory for it.
int convbias_convolve(int way, int activation, const Convolution* convolution, const float* x, const float* packed,
                      const float* residual, float* y, const Field* field, int threads);

// One of several convolutions, by way and activation, of arrays that have numbers: `residual` may be none, below 0.
struct Step {
    int way, activation;
    const Convolution* convolution;
    const float* packed;
    const Field* field;
    int64_t x, residual, y;
};

// One after another. A pointwise or gathered one may write over its residual. 0 where there is no memory for one.
int convbias_chain(const Step* steps, int64_t count, float* const* arrays, int threads);

// What the gradients of a convolution and its activation are made from, and where they go; what is not wanted is null.
// `weights` are those of the convolution that makes the input's, gx, from the output's: rotated, filters for channels.
// `activation`, `saved` and `sums` are as convbias_backward has them, and gz is, which is gy where there is no activation.
struct Gradients {
    int activation;
    const float *x, *saved, *gy;
    Weights weights;
    float *gz, *gx, *gw, *sums;
};

// `turned` makes gx, of stride 1. gw is [filter][channel] of pointwise convolutions; [filter][tap][channel] of
// Winograd's, the taps of one slice after another; and [channel][tap] of depthwise ones, for 3, 5, 7 and 9 taps along a
// row, stride 1 or 2 and no dilation along it. Without gz, depthwise ones of stride 1 and pointwise ones, of which a place
// reads its own alone, make all in one pass; pointwise ones do no other way, others have none. 0 where there is no memory,
// or no kernel.
int convbias_gradients(int way, const Gradients* wanted, const Convolution* convolution, const Convolution* turned,
                       int threads);

// to[n][c][r] = from[n][r][c]: from channels first to channels last, or back.
void convbias_turn(const float* from, float* to, int64_t samples, int64_t rows, int64_t columns, int threads);

// The instruction set in use; convbias_use changes it and answers 0 where this machine or build lacks it.
const char* convbias_instructions();
int convbias_use(const char* instructions);
}
#pragma GCC visibility pop
