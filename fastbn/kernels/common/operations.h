/* The activations that are computed element by element, as rooms name them. */
#ifndef FASTBN_OPERATIONS_H
#define FASTBN_OPERATIONS_H

enum {
    MAP_RELU,
    MAP_LEAKY,
    MAP_SIGMOID,
    MAP_TANH,
    /* whose gradients are computed from x, see common/pointwise.h */
    MAP_ELU,
    MAP_SELU,
    MAP_SILU,
    MAP_GELU,
    MAP_GELU_TANH,
    MAP_HARDSIGMOID,
    MAP_HARDSWISH,
    MAP_RELU6,
    MAP_SOFTPLUS,
    MAP_MISH
};

#endif
