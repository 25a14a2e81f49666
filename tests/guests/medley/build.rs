//! Turns the service's `.proto` into messages and a trait.

fn main() {
    guest_sdk_build::compile("proto/medley.proto");
}
