//! Tests of the proxy: delays, cuts and resets on real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::{Direction, Proxy, Shape};
use crate::wait::{wait_until, within};

/// A proxy, and a connection through it with both ends.
struct Through {
    proxy: Proxy,
    client: TcpStream,
    server: TcpStream,
    listener: TcpListener,
}

const CUT: Shape = Shape { cut: true, delay: Duration::ZERO, bytes_per_second: None };

/// Long enough to see that no byte arrives.
const MOMENT: Duration = Duration::from_millis(150);

fn through() -> Through {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut proxy = Proxy::start().unwrap();
    proxy.lead_to(Some(listener.local_addr().unwrap())).unwrap();
    let client = TcpStream::connect(proxy.address()).unwrap();
    let (server, _) = listener.accept().unwrap();
    for end in [&client, &server] {
        end.set_read_timeout(Some(within(10))).unwrap();
    }
    Through { proxy, client, server, listener }
}

fn text(from: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn hears_nothing(end: &mut TcpStream) -> bool {
    end.set_read_timeout(Some(MOMENT)).unwrap();
    let heard = end.read(&mut [0]);
    end.set_read_timeout(Some(within(10))).unwrap();
    matches!(heard, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

fn is_reset(end: &mut TcpStream) -> bool {
    matches!(end.read(&mut [0]), Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn bytes_go_both_ways_and_so_does_the_end() {
    let Through { client: mut near, server: mut far, proxy, .. } = through();
    near.write_all(b"there").unwrap();
    assert_eq!(text(&mut far, 5), "there");
    far.write_all(b"back").unwrap();
    assert_eq!(text(&mut near, 4), "back");
    near.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
    far.write_all(b"last").unwrap();
    assert_eq!(text(&mut near, 4), "last");
    drop(far);
    assert_eq!(near.read(&mut [0]).unwrap(), 0);
    wait_until(within(10), "the connection is forgotten", || Ok(proxy.connections() == 0)).unwrap();
}

#[test]
fn a_cut_holds_one_direction_and_loses_nothing() {
    let Through { client: mut near, server: mut far, mut proxy, .. } = through();
    proxy.shape(Direction::ToTarget, CUT).unwrap();
    near.write_all(b"one").unwrap();
    assert!(hears_nothing(&mut far));
    far.write_all(b"two").unwrap();
    assert_eq!(text(&mut near, 3), "two");
    near.write_all(b", three").unwrap();
    proxy.shape(Direction::ToTarget, Shape::default()).unwrap();
    assert_eq!(text(&mut far, 10), "one, three");
}

#[test]
fn behind_a_cut_not_even_a_death_is_heard_of() {
    let Through { client: mut near, server: far, listener, mut proxy } = through();
    proxy.shape(Direction::ToClient, CUT).unwrap();
    drop((far, listener));
    assert!(hears_nothing(&mut near));
    // While the proxy is cut, a client does not learn that there is no target.
    proxy.lead_to(None).unwrap();
    let mut other = TcpStream::connect(proxy.address()).unwrap();
    assert!(hears_nothing(&mut other));
    proxy.shape(Direction::ToClient, Shape::default()).unwrap();
    assert_eq!(near.read(&mut [0]).unwrap(), 0);
    other.set_read_timeout(Some(within(10))).unwrap();
    assert!(is_reset(&mut other));
}

#[test]
fn delayed_bytes_set_out_together_and_arrive_late_and_in_order() {
    let Through { client: mut near, server: mut far, mut proxy, .. } = through();
    let delay = Duration::from_millis(200);
    proxy.shape(Direction::ToTarget, Shape { delay, ..Shape::default() }).unwrap();
    let began = Instant::now();
    // The proxy needs forty reads for this: one after another they would take eight seconds.
    let sent: String = (0..40).map(|number| format!("{number:16384}")).collect();
    let writer = {
        let (mut near, sent) = (near.try_clone().unwrap(), sent.clone());
        std::thread::spawn(move || near.write_all(sent.as_bytes()).unwrap())
    };
    assert_eq!(text(&mut far, sent.len()), sent);
    let took = began.elapsed();
    writer.join().unwrap();
    assert!(took >= delay && took < Duration::from_secs(4), "{took:?}");
    far.write_all(b"at once").unwrap();
    assert_eq!(text(&mut near, 7), "at once");
}

#[test]
fn a_narrow_direction_lets_so_many_bytes_a_second_through() {
    let Through { client: mut near, server: mut far, mut proxy, .. } = through();
    let shape = Shape { bytes_per_second: Some(20_000), ..Shape::default() };
    proxy.shape(Direction::ToTarget, shape).unwrap();
    let began = Instant::now();
    near.write_all(&[b'x'; 10_000]).unwrap();
    text(&mut far, 10_000);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(450), "{took:?}");
    // Removes the rate limit, which takes effect at once.
    near.write_all(&[b'y'; 100_000]).unwrap();
    proxy.shape(Direction::ToTarget, Shape::default()).unwrap();
    let began = Instant::now();
    text(&mut far, 100_000);
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_reset_reaches_both_ends_at_once() {
    let Through { client: mut near, server: mut far, proxy, listener } = through();
    proxy.reset();
    assert!(is_reset(&mut near) && is_reset(&mut far));
    // The next connection works like the first one.
    let mut again = TcpStream::connect(proxy.address()).unwrap();
    again.write_all(b"new").unwrap();
    let (mut far, _) = listener.accept().unwrap();
    assert_eq!(text(&mut far, 3), "new");
}

#[test]
fn a_reset_wakes_threads_that_wait_for_a_cut_or_for_a_reader() {
    let Through { client: mut near, server: mut far, mut proxy, .. } = through();
    proxy.shape(Direction::ToTarget, CUT).unwrap();
    near.write_all(b"held").unwrap();
    let filler = {
        let mut far = far.try_clone().unwrap();
        std::thread::spawn(move || while far.write_all(&[0; 65_536]).is_ok() {})
    };
    assert!(near.read(&mut [0]).is_ok());
    proxy.reset();
    filler.join().unwrap();
    assert!(far.read(&mut [0]).is_err() || far.write_all(b"x").is_err());
    wait_until(within(10), "the connection is forgotten", || Ok(proxy.connections() == 0)).unwrap();
}

#[test]
fn a_target_that_refuses_resets_whoever_came() {
    let Through { listener, mut proxy, .. } = through();
    drop(listener);
    let mut client = TcpStream::connect(proxy.address()).unwrap();
    client.set_read_timeout(Some(within(10))).unwrap();
    assert!(is_reset(&mut client));
    // Without a target no thread accepts the connection.
    proxy.lead_to(None).unwrap();
    let refused = TcpStream::connect(proxy.address()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn another_target_gets_the_next_connection_at_the_same_address() {
    let Through { client: mut near, server: mut far, mut proxy, .. } = through();
    let second = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = proxy.address();
    proxy.lead_to(None).unwrap();
    proxy.lead_to(Some(second.local_addr().unwrap())).unwrap();
    assert_eq!(proxy.address(), address);
    let mut client = TcpStream::connect(address).unwrap();
    let (mut there, _) = second.accept().unwrap();
    client.write_all(b"second").unwrap();
    assert_eq!(text(&mut there, 6), "second");
    near.write_all(b"first").unwrap();
    assert_eq!(text(&mut far, 5), "first");
}

#[test]
fn nothing_is_left_of_a_proxy_that_is_dropped() {
    let Through { client: mut near, server: mut far, mut proxy, .. } = through();
    proxy.shape(Direction::ToClient, CUT).unwrap();
    far.write_all(b"held").unwrap();
    let address = proxy.address();
    drop(proxy);
    assert!(is_reset(&mut near) && is_reset(&mut far));
    assert!(TcpStream::connect(address).is_err());
}
