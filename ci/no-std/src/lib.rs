//! A program without the standard library that runs a device and a service against each other; `main.c` calls it.
//! If anything below used `std`, there would be two panic handlers, which is error E0152.
#![no_std]

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::num::NonZeroUsize;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use mpp_proto::{
    AccountId, Datagram, Device, DeviceConfig, DeviceEvent, DeviceId, Endpoint, Event, Instant, LinkKind,
    LinkState, Path, Rights, Seed, Service, ServiceConfig, ServiceSecret, ShardId, StoreId, TicketKey,
    TicketSpec, TransmitBatch, UnixTime,
};

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // SAFETY: the C library's; it ends the program, which is a failure to whoever ran it.
    unsafe { abort() }
}

unsafe extern "C" {
    fn abort() -> !;
}

const HEAP: usize = 16 << 20;

/// Gives memory away and never takes it back.
struct Bump {
    heap: UnsafeCell<[u8; HEAP]>,
    used: AtomicUsize,
}

// SAFETY: every byte is handed out once.
unsafe impl Sync for Bump {}

// SAFETY: what is returned is aligned, inside the heap, and handed out once.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let size = layout.size() + layout.align();
        let start = self.used.fetch_add(size, Ordering::Relaxed);
        if start + size > HEAP {
            return core::ptr::null_mut();
        }
        let base = self.heap.get().cast::<u8>();
        // SAFETY: start + size is within the heap, and so is what alignment adds.
        unsafe {
            let at = base.add(start);
            at.add(at.align_offset(layout.align()))
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Bump = Bump { heap: UnsafeCell::new([0; HEAP]), used: AtomicUsize::new(0) };

/// Connects a device to a service and returns how many notifications it got: 1.
#[unsafe(no_mangle)]
pub extern "C" fn mpp_no_std_run() -> u32 {
    run().unwrap_or(0)
}

fn run() -> Option<u32> {
    let (mut now, unix) = (Instant::from_micros(1_000_000), UnixTime::from_millis(1_800_000_000_000));
    let key = TicketKey::new(*b"key1", [7; 32]);
    let spec = TicketSpec {
        endpoints: vec!["192.0.2.1:15096".parse::<Endpoint>().ok()?],
        account: "alice@example.com".into(),
        device: DeviceId([1; 16]),
        rights: Rights::default(),
        issued: unix,
        expiry: unix + Duration::from_secs(86_400),
    };
    let ticket = key.mint(&spec, &[3; 32]).ok()?;
    let mut config = ServiceConfig::new(ServiceSecret::new([9; 32]), vec![key]);
    // Its tables are made at the start, for as many as there may be.
    config.capacity = 64;
    let mut service = Service::new(Arc::new(config), ShardId(0), Seed::new([1; 32]), now, unix);
    let config = Arc::new(DeviceConfig::default());
    let mut device = Device::new(config, ticket, None, Seed::new([2; 32]), now, unix);

    let (here, there) = ("198.51.100.7:4000".parse().ok()?, "192.0.2.1:15096".parse().ok()?);
    let (mut buffer, mut batch, mut dispositions) = ([0; 1452], TransmitBatch::new(16), Vec::new());
    let mut link = mpp_proto::LinkId(0);
    let mut notifications = 0;
    for turn in 0..200 {
        now = now + Duration::from_millis(10);
        device.handle_timeout(now);
        let _ = service.handle_timeout(now, NonZeroUsize::MAX);
        if turn == 100 {
            service
                .publish(now, &AccountId::of("alice@example.com"), Event::changed(StoreId::INBOUND))
                .ok()?;
        }
        while let Some(event) = device.poll_event() {
            if let DeviceEvent::OpenLink { link: asked, kind: LinkKind::Udp(_) } = event {
                link = asked;
                device.handle_link(now, link, LinkState::Open { local: here });
            }
        }
        while let Some(sent) = device.poll_transmit(now, &mut buffer, NonZeroUsize::MIN) {
            let payload = buffer.get_mut(..sent.len)?;
            let path = Path::new(mpp_proto::LinkId(0), here);
            service.handle_datagrams(now, &mut [Datagram { path, payload }], &mut dispositions);
        }
        while service.poll_transmit(now, &mut batch) > 0 {
            for (_, bytes) in batch.iter() {
                let payload = buffer.get_mut(..bytes.len())?;
                payload.copy_from_slice(bytes);
                let _ = device.handle_datagram(now, Datagram { path: Path::new(link, there), payload });
            }
            batch.clear();
        }
        while device.poll_notification(now).is_some() {
            notifications += 1;
        }
    }
    Some(notifications)
}
