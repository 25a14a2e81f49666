//! Turns the service's `.proto` into messages and a trait.

fn main() {
    lockstep_guest_build::compile("proto/kv.proto");
}
