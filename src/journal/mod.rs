//! The journal: what must not be forgotten, appended before its effects leave.
//!
//! `record` is the pure format, `file` writes it in segments with group commit and reads it back.

pub mod record;
