//! Every byte layout.
