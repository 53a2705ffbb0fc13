//! The pages of the guide, whose code is compiled as that of the README is.

#[doc = include_str!("../docs/embedding.md")]
struct Embedding;

#[doc = include_str!("../docs/operations.md")]
struct Operations;

#[doc = include_str!("../docs/sources.md")]
struct Sources;
