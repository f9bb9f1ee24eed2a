//! What a history is made of, as data and as text.

use std::fmt;
use std::str::FromStr;

/// Writes the enum and everything that has to know its variants: names, fields, text. Each operation is a word and
/// numbers, so that a shrinker can drop it or make its numbers smaller without knowing what it means.
macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident = $word:literal { $($(#[$field_doc:meta])* $field:ident,)* })*) => {
        /// One step of a [`History`](super::History). Numbers that name something wrap around what there is (`device
        /// = 7` of three devices is device 1), and an operation on what is not there does nothing: every list of
        /// operations is a valid history.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Operation {
            $($(#[$doc])* $variant { $($(#[$field_doc])* $field: u64,)* },)*
        }

        impl Operation {
            /// Its word in the text of a history.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $word,)*
                }
            }

            /// Its numbers, with their names.
            pub fn numbers(&mut self) -> Vec<(&'static str, &mut u64)> {
                match self {
                    $(Self::$variant { $($field),* } => vec![$((stringify!($field), $field)),*],)*
                }
            }

            /// The operation of this name, its numbers zero.
            fn named(name: &str) -> Option<Self> {
                match name {
                    $($word => Some(Self::$variant { $($field: 0),* }),)*
                    _ => None,
                }
            }
        }
    };
}

operations! {
    /// How the service is configured; only before the first device.
    Service = "service" {
        /// Events with payload that a channel keeps; at least 1.
        ring_events,
        /// KiB of payload that a channel keeps; at least 16.
        ring_kib,
    }
    /// What the network does to the packets of devices added from now on, both ways.
    Climate = "climate" {
        /// One way, in ms.
        latency,
        /// On top of it at most, in ms.
        jitter,
        /// Packets lost, of 1,000.
        loss,
        /// Packets of 1,000 before which a burst of loss begins.
        burst,
        /// Packets doubled, of 1,000.
        duplicate,
        /// Packets held back, of 1,000.
        reorder,
        /// Packets with a flipped bit, of 1,000.
        corrupt,
    }
    /// A new device.
    Device = "device" {
        /// Which of two accounts.
        account,
        /// Which stores it asks for: 0 all, else a bit mask over four.
        stores,
        /// 1: it acknowledges by itself what its application was given.
        manual,
        /// Notifications that may wait for its application; at least 1.
        queue,
        /// Seconds between heartbeats; 0 is the default.
        interval,
    }
    /// An event is posted.
    Post = "post" {
        /// To which of two accounts.
        account,
        /// Which of four stores.
        store,
        /// Bytes of payload, at most 16,384; 0: none, "the store changed".
        size,
        /// 0: the default; else one more than its time to live in ms.
        ttl,
        /// 0: none; else the collapse key.
        key,
        /// 0 normal, 1 low, 2 high.
        urgency,
    }
    /// Time passes.
    Wait = "wait" {
        /// In ms.
        time,
    }
    /// An application asks for other stores.
    Subscribe = "subscribe" {
        /// Which device.
        device,
        /// As for a new device.
        stores,
    }
    /// A device is killed.
    Kill = "kill" {
        /// Which device.
        device,
    }
    /// A killed device is started with what it kept.
    Restore = "restore" {
        /// Which device.
        device,
    }
    /// A device is started anew with nothing.
    Forget = "forget" {
        /// Which device.
        device,
    }
    /// A device is cut off for a while.
    Dark = "dark" {
        /// Which device.
        device,
        /// In ms.
        time,
    }
    /// The service is killed and started again at once.
    Restart = "restart" {
        /// 1: it keeps its secret.
        secret,
        /// 1: it keeps the heads of its channels.
        heads,
    }
    /// An application takes its notifications one by one with a pause after each.
    Pause = "pause" {
        /// Which device.
        device,
        /// In ms; 0: at once, all of them.
        time,
    }
    /// An application takes no notification any more.
    Stall = "stall" {
        /// Which device.
        device,
    }
    /// An application holds its acknowledgements back.
    Hold = "hold" {
        /// Which device.
        device,
        /// 1: it begins to, 0: it ceases to.
        hold,
    }
    /// The network changes on the way to the service.
    Uplink = "uplink" {
        /// Which device.
        device,
        /// As for the climate, as the rest.
        latency,
        /// In ms.
        jitter,
        /// Of 1,000.
        loss,
        /// Of 1,000.
        burst,
        /// Of 1,000.
        duplicate,
        /// Of 1,000.
        reorder,
        /// Of 1,000.
        corrupt,
    }
    /// The network changes on the way to a device.
    Downlink = "downlink" {
        /// Which device.
        device,
        /// As for the climate, as the rest.
        latency,
        /// In ms.
        jitter,
        /// Of 1,000.
        loss,
        /// Of 1,000.
        burst,
        /// Of 1,000.
        duplicate,
        /// Of 1,000.
        reorder,
        /// Of 1,000.
        corrupt,
    }
    /// A device gets other ports and is not told.
    Rebind = "rebind" {
        /// Which device.
        device,
    }
    /// A device gets other addresses and is not told.
    Readdress = "readdress" {
        /// Which device.
        device,
    }
    /// A new NAT box.
    Box = "box" {
        /// 0: one by one external port for each far address and port, 1: for each far address, 2: for all.
        mapping,
        /// Who may send to it: 0 addresses and ports that were sent to, 1 addresses that were, 2 anybody.
        filtering,
        /// 0: another port each time, 1: the device's own, 2: any.
        ports,
        /// Seconds until a mapping is forgotten; at least 2.
        lifetime,
        /// 0: always that; else seconds once it is in use, as Linux does it.
        settled,
        /// 1: packets from outside lengthen that too.
        refresh,
        /// 0: on the internet; else behind the box of this number, counted from 1.
        outer,
    }
    /// A device moves to another network.
    Move = "move" {
        /// Which device.
        device,
        /// 0: out of every box; else behind the box of this number, counted from 1.
        to,
        /// 1: it is told.
        told,
    }
    /// A NAT box forgets after another time from now on.
    Mood = "mood" {
        /// The number of the box, counted from 1.
        nat,
        /// Seconds; at least 2.
        lifetime,
    }
    /// A device measures how long its network remembers it.
    Measure = "measure" {
        /// Which.
        device,
    }
    /// A NAT box is switched off and on.
    Reboot = "reboot" {
        /// The number of the box, counted from 1.
        nat,
        /// 1: it has another address then.
        address,
    }
    /// What the network of a device does to UDP changes.
    Udp = "udp" {
        /// Which device.
        device,
        /// 0: it passes, 1: it is dropped without a word, 2: the system refuses to send it, 3: packets of more than 1,000
        /// bytes vanish.
        blocked,
    }
    /// The way by Web changes.
    Web = "web" {
        /// Which device.
        device,
        /// 0: its host has no Web client from the next change of network or start on, 1: it has one, 2: it has one, and
        /// nobody answers.
        client,
        /// One way, in ms.
        latency,
        /// Requests that fail, of 1,000.
        loss,
        /// 0: never; else seconds after which a proxy gives up a request; at least 2.
        cut,
    }
    /// Somebody without keys is on the path from now on, in place of whoever was.
    Attack = "attack" {
        /// What he does, a bit mask: 1 races, 2 relays, 4 repeats, 8 reflects, 16 cuts, 32 flips, 64 makes noise, 128
        /// forges Errors, 256 forges Defers, 512 delays, 1024 takes away, 2048 carries copies to the other transport; 0: nobody
        /// is there any more.
        acts,
        /// To packets of 1,000, each of these.
        chance,
    }
    /// The civil clock of a device is set.
    DeviceClock = "device-clock" {
        /// Which device.
        device,
        /// Seconds after the true time;
        ahead,
        /// less so many.
        behind,
    }
    /// The civil clock of the service is set.
    ServiceClock = "service-clock" {
        /// Seconds after the true time;
        ahead,
        /// less so many.
        behind,
    }
}

/// `post account=1 store=2 size=100`: numbers that are zero are left out.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        for (name, value) in self.clone().numbers() {
            if *value != 0 {
                write!(f, " {name}={value}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default();
        let mut operation = Self::named(name).ok_or_else(|| format!("no operation is called {name:?}"))?;
        for word in words {
            let number = word.split_once('=').and_then(|(name, n)| Some((name, n.parse::<u64>().ok()?)));
            let (wanted, value) =
                number.ok_or_else(|| format!("{name}: {word:?} is not of the form name=number"))?;
            let mut numbers = operation.numbers().into_iter();
            match numbers.find(|(number, _)| *number == wanted) {
                Some((_, place)) => *place = value,
                None => return Err(format!("{name} has no {wanted:?}")),
            }
        }
        Ok(operation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let post = Operation::Post { account: 1, store: 3, size: 100, ttl: 0, key: 2, urgency: 0 };
        assert_eq!(post.to_string(), "post account=1 store=3 size=100 key=2");
        assert_eq!(post.to_string().parse(), Ok(post));
        for (text, wrong) in [("", "\"\""), ("poke", "poke"), ("post of=1", "of"), ("post size=x", "size=x")]
        {
            assert!(text.parse::<Operation>().is_err_and(|e| e.contains(wrong)), "{text}");
        }
    }
}
