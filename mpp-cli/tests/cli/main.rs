//! The program as people run it: separate processes, real sockets, signals. Nothing here can hang: every wait has a
//! limit, and every process ends with its test.

mod copies;
mod demo;
mod errors;
#[cfg(target_os = "linux")]
mod held;
mod netcheck;
mod restart;
mod support;
mod walk;
mod web;
