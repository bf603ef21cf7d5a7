//! What goes wrong on a cluster, and what it comes to: a typed condition, or work that goes on. Nothing is done twice.

mod away;
mod clocks;
mod nodes;
mod pods;
mod refused;
mod relay;
mod servers;
mod webhook;
