//! Tests of both ends together. They come with `made.rs`.
