#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mpp_proto::fuzzing::authentic_web(data));
