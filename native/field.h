// The numbers of a bias field, read from its compact form, and what is done with them to a convolution's output.

#pragma once

#include "activations.h"
#include "convbias.h"
#include "kernels.h"
#include "numbers.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

// Numbers of a sample that are worked on at a time: few enough to stay in the first cache with all that is
// read and written beside them, and the same for any number of threads, so that sums are the same too.
constexpr int64_t FORWARD_BLOCK = 4096;

inline bool joined(const Term& term, int64_t a, int64_t next_size) {
    return !term.index[a] && !term.index[a + 1] && term.strides[a] == term.strides[a + 1] * next_size;
}

// The same field with as few axes as can be: neighbours that every term reads as one are one.
inline Field collapsed(Field field) {
    for (int64_t a = field.axes - 2; a >= 0; a--) {
        bool all = true;
        for (int64_t t = 0; t < field.terms; t++) all = all && joined(field.term[t], a, field.sizes[a + 1]);
        if (!all) continue;
        field.sizes[a] *= field.sizes[a + 1];
        field.axes--;
        for (int64_t t = 0; t < field.terms; t++) field.term[t].strides[a] = field.term[t].strides[a + 1];
        for (int64_t b = a + 1; b < field.axes; b++) {
            field.sizes[b] = field.sizes[b + 1];
            for (int64_t t = 0; t < field.terms; t++) {
                field.term[t].strides[b] = field.term[t].strides[b + 1];
                field.term[t].index[b] = field.term[t].index[b + 1];
            }
        }
        // What was at a + 1 is at a now, and keeps its index, which is missing there.
    }
    return field;
}

// Where lines along the innermost axis lie: at these places of the outer axes.
struct Place {
    int64_t at[MOST_AXES];

    Place(const Field& field, int64_t line) {
        for (int64_t a = field.axes - 2; a >= 0; a--) {
            at[a] = line % field.sizes[a];
            line /= field.sizes[a];
        }
    }

    void next(const Field& field) {
        for (int64_t a = field.axes - 2; a >= 0; a--) {
            if (++at[a] < field.sizes[a]) return;
            at[a] = 0;
        }
    }
};

// Part of a line: what one term has from `first` on, as `count` numbers.
struct Line {
    float* values;
    int64_t stride, first, count;
    const int32_t* index;
};

inline Line line_of(const Field& field, const Term& term, const Place& place, int64_t first, int64_t count) {
    const int64_t inner = field.axes - 1;
    int64_t offset = 0;
    for (int64_t a = 0; a < inner; a++) offset += term.strides[a] * (term.index[a] ? term.index[a][place.at[a]] : place.at[a]);
    return {term.values + offset, term.strides[inner], first, count, term.index[inner]};
}

// The line's numbers to `to`, or added to what is there.
template <bool more>
inline void read_line(const Line& line, float* to) {
    const float* values = line.values;
    if (line.index) {
        const int32_t* index = line.index + line.first;
        for (int64_t i = 0; i < line.count; i++) to[i] = values[line.stride * index[i]] + (more ? to[i] : 0);
    } else if (line.stride == 0) {
        const float shared = *values;
#pragma omp simd
        for (int64_t i = 0; i < line.count; i++) to[i] = shared + (more ? to[i] : 0);
    } else if (line.stride == 1) {
        values += line.first;
#pragma omp simd
        for (int64_t i = 0; i < line.count; i++) to[i] = values[i] + (more ? to[i] : 0);
    } else {
        values += line.first * line.stride;
        for (int64_t i = 0; i < line.count; i++) to[i] = values[i * line.stride] + (more ? to[i] : 0);
    }
}

// Whether the field is written out, place by place.
inline bool lies_as_places(const Field& field) {
    const Term& first = field.term[0];
    return field.terms == 1 && field.axes == 1 && first.strides[0] == 1 && !first.index[0];
}

// Whether it is the same at every place, with its `channels` side by side.
inline bool repeats(const Field& field, int64_t channels) {
    const Term& first = field.term[0];
    return field.terms == 1 && field.axes == 2 && field.sizes[1] == channels && first.strides[0] == 0 &&
           first.strides[1] == 1 && !first.index[0] && !first.index[1];
}

// The field's numbers from place `begin` on: where they lie, or else written out to `room`; null for no field.
inline const float* read_field(const Field& field, int64_t begin, int64_t count, float* room) {
    if (!field.terms) return nullptr;
    if (lies_as_places(field)) return field.term[0].values + begin;
    const int64_t inner = field.sizes[field.axes - 1];
    Place place(field, begin / inner);
    int64_t first = begin % inner;
    for (int64_t done = 0; done < count; place.next(field)) {
        const int64_t run = least(inner - first, count - done);
        for (int64_t t = 0; t < field.terms; t++) {
            const Line line = line_of(field, field.term[t], place, first, run);
            t ? read_line<true>(line, room + done) : read_line<false>(line, room + done);
        }
        done += run;
        first = 0;
    }
    return room;
}

template <class Number, int activation>
void add_and_activate(Number* z, Number* y, const float* field, int64_t count) {
    if (!field) {
        Number* to = y ? y : z;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) write(to + i, activate<activation>(read(z[i])));
    } else if (y) {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) {
            const float sum = read(z[i]) + field[i];
            write(z + i, sum);
            write(y + i, activate<activation>(sum));
        }
    } else {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) write(z + i, activate<activation>(read(z[i]) + field[i]));
    }
}

}  // namespace
}  // namespace CONVBIAS_INSTRUCTIONS
