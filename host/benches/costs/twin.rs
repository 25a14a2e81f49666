//! The native twin of the key-value guest, behind the same trait as an instance of the guest: the
//! cost of the commands without a sandbox. It decodes, writes and answers as the guest does, to the
//! byte. The benchmark compares their states.

use kv::{AddRequest, AddResponse};
use lockstep::guest::{Call, HostFault, Limits, Rows, StoreFault, Verdict};
use lockstep::machine::{Instance, Instances};
use lockstep_guest::key::EncodeKey;
use prost::Message;

/// The tag of the guest's only collection.
const VALUES_TAG: u8 = 1;

/// Makes twins. A fresh one costs nothing, because it has no memory.
pub struct Twins {
    limits: Limits,
}

impl Twins {
    /// Makes twins that keep these limits.
    pub fn new(limits: &Limits) -> Twins {
        Twins { limits: limits.clone() }
    }
}

impl Instances for Twins {
    fn fresh(&self) -> Result<Box<dyn Instance>, HostFault> {
        Ok(Box::new(Twin { limits: self.limits.clone(), served: 0 }))
    }
}

struct Twin {
    limits: Limits,
    served: u32,
}

impl Twin {
    fn add(&self, call: Call<'_>, store: &mut dyn Rows) -> Result<Verdict, StoreFault> {
        let request = AddRequest::decode(call.request).expect("the benchmark sends requests");
        let mut key = vec![VALUES_TAG];
        request.key.encode_key(&mut key);
        assert!(key.len() <= self.limits.key_bytes_max as usize, "a key of the benchmark is too long");
        assert!(request.val.len() <= self.limits.value_bytes_max as usize, "a value of the benchmark is too long");
        store.put(&key, request.val.as_bytes())?;
        let reply = AddResponse { commit_index: call.context.index };
        Ok(Verdict::Reply(reply.encode_to_vec().into()))
    }
}

impl Instance for Twin {
    fn served(&self) -> u32 {
        self.served
    }

    fn apply(&mut self, call: Call<'_>, mut store: Box<dyn Rows>) -> (Result<Verdict, HostFault>, Box<dyn Rows>) {
        assert_eq!(call.method, "Example/Add", "the twin has one command");
        self.served += 1;
        let verdict = self.add(call, store.as_mut()).map_err(|StoreFault(fault)| HostFault(fault));
        (verdict, store)
    }

    fn fuel_used(&self) -> u64 {
        0
    }

    fn fuel_of_start(&self) -> u64 {
        0
    }
}
