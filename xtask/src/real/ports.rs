//! Free ports of the loopback interface.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};

/// A port that nobody else is given while this is held.
#[derive(Debug)]
pub struct Reserved {
    listener: TcpListener,
    port: u16,
}

impl Reserved {
    /// Reserves a port that is free now.
    pub fn new() -> Result<Reserved> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to find a free port")?;
        let port = listener.local_addr().context("failed to find a free port")?.port();
        Ok(Reserved { listener, port })
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets the port go, for the server that is started next.
    pub fn release(self) -> u16 {
        drop(self.listener);
        self.port
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ports_differ_while_they_are_held_and_are_free_afterwards() {
        let (one, two) = (Reserved::new().unwrap(), Reserved::new().unwrap());
        assert_ne!(one.port(), two.port());
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, one.port())).is_err());
        let port = one.release();
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
    }
}
