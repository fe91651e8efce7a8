// The numbers of a bias field, read from its compact form, and what is done with them to a convolution's output.

#pragma once

#include "activations.h"
#include "convbias.h"
#include "numbers.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

// Numbers of a sample that are worked on at a time: few enough to stay in the first cache with all that is
// read and written beside them, and the same for any number of threads, so that sums are the same too.
constexpr int64_t FORWARD_BLOCK = 4096;

inline int64_t places_of(const Field& field) {
    int64_t places = 1;
    for (int64_t a = 0; a < field.axes; a++) places *= field.sizes[a];
    return places;
}

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

// Part of a line along the innermost axis: what one term has from `first` on, as `count` numbers.
struct Line {
    float* values;
    int64_t stride, first, count;
    const int32_t* index;
};

inline Line line_of(const Field& field, const Term& term, int64_t begin, int64_t count) {
    const int64_t inner = field.axes - 1;
    int64_t rest = begin / field.sizes[inner], offset = 0;
    for (int64_t a = inner - 1; a >= 0; a--) {
        const int64_t i = rest % field.sizes[a];
        rest /= field.sizes[a];
        offset += term.strides[a] * (term.index[a] ? term.index[a][i] : i);
    }
    return {term.values + offset, term.strides[inner], begin % field.sizes[inner], count, term.index[inner]};
}

inline void add_line(const Line& line, float* to) {
    const float* values = line.values;
    if (line.index) {
        const int32_t* index = line.index + line.first;
        for (int64_t i = 0; i < line.count; i++) to[i] += values[line.stride * index[i]];
    } else if (line.stride == 0) {
        const float shared = *values;
#pragma omp simd
        for (int64_t i = 0; i < line.count; i++) to[i] += shared;
    } else if (line.stride == 1) {
        values += line.first;
#pragma omp simd
        for (int64_t i = 0; i < line.count; i++) to[i] += values[i];
    } else {
        values += line.first * line.stride;
        for (int64_t i = 0; i < line.count; i++) to[i] += values[i * line.stride];
    }
}

// Whether the field is written out, place by place.
inline bool lies_as_places(const Field& field) {
    const Term& first = field.term[0];
    return field.terms == 1 && field.axes == 1 && first.strides[0] == 1 && !first.index[0];
}

// The field's numbers from place `begin` on: where they lie, or else written out to `room`.
inline const float* read_field(const Field& field, int64_t begin, int64_t count, float* room) {
    if (lies_as_places(field)) return field.term[0].values + begin;
    for (int64_t i = 0; i < count; i++) room[i] = 0;
    const int64_t inner = field.sizes[field.axes - 1];
    for (int64_t done = 0; done < count;) {
        const int64_t run = least(inner - (begin + done) % inner, count - done);
        for (int64_t t = 0; t < field.terms; t++) add_line(line_of(field, field.term[t], begin + done, run), room + done);
        done += run;
    }
    return room;
}

template <class Number, int activation>
void add_and_activate(Number* z, Number* y, const float* field, int64_t count) {
    if (y) {
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
