//! Turns the service's `.proto`, and what the clients of the long runs call, into messages and
//! traits.

fn main() -> Result<(), lockstep_guest_build::Error> {
    lockstep_guest_build::compile_protos(&["proto/orders.proto", "../judged/chain.proto"], &["proto", "../judged"])
}
