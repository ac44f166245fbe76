//! Time as an argument: monotonic instants, wall-clock stamps, the lazy timer wheel.
