//! The library as its users see it: the examples, and what the compiler says.

mod examples;
mod messages;
