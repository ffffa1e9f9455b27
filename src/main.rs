//! `polyhook`
fn main() {}
