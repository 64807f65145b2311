//! The journal's format.
