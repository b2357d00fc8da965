//! Every compression that a kernel's payload can have (arch/x86/boot/compressed/Makefile), made with the tools and the
//! options that kbuild calls, wrapped as a boot image, and read back.

#[path = "support/smallest.rs"]
mod smallest;

use std::io::Write;
use std::process::{Command, Stdio};

use klp_build::kernel::image::Image;

const ADDRESS: u64 = 0xffff_ffff_8100_0000;

/// An ELF file of this many MiB: half of it packs well, half hardly.
fn kernel(size: usize) -> Vec<u8> {
    let mut code = Vec::new();
    let mut random = 1u64;
    while code.len() < size << 20 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        code.extend(random.to_le_bytes());
        code.extend((code.len() as u64 / 1000).to_le_bytes());
    }
    smallest::elf(ADDRESS, &code)
}

/// A boot image with this payload (Documentation/arch/x86/boot.rst).
fn boot_image(payload: &[u8]) -> Vec<u8> {
    const START: usize = 0x400;
    let mut image = vec![0; START];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x248..0x24c].copy_from_slice(&0u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.extend_from_slice(payload);
    // The decompressor's code follows.
    image.extend([0xcc; 4096]);
    image
}

fn pack(command: &[&str], plain: &[u8]) -> Vec<u8> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("failed to run `{}`: {error}; install it", command[0]));
    let mut stdin = child.stdin.take().unwrap();
    let plain = plain.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&plain).unwrap());
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(out.status.success(), "{command:?}");
    out.stdout
}

/// Packs, appends the length where kbuild does, and reads back; a payload that is cut must be an error.
fn both_ways(command: &[&str], has_length: bool, size: usize) {
    let kernel = kernel(size);
    let mut payload = pack(command, &kernel);
    if has_length {
        payload.extend((kernel.len() as u32).to_le_bytes());
    }
    let image = Image::parse(boot_image(&payload)).unwrap_or_else(|error| panic!("{command:?}: {error:#}"));
    let code = &kernel[120..];
    assert!(image.at(ADDRESS, code.len()) == Some(code), "{command:?}: not the same");
    assert!(Image::parse(boot_image(&payload[..payload.len() / 2])).is_err(), "{command:?}: half of it is accepted");
}

/// What a configuration has when nobody chose.
#[test]
fn gzip() {
    both_ways(&["gzip", "-n", "-f", "-9"], false, 1);
}

/// The length that kbuild appends is behind the end mark, and left alone.
#[test]
fn bzip2() {
    both_ways(&["bzip2", "-9"], true, 1);
}

/// The old format that xz still writes, without a length of its own.
#[test]
fn lzma() {
    both_ways(&["xz", "--format=lzma", "-9"], true, 1);
}

/// Debian: with the filter for x86 branches (scripts/xz_wrap.sh).
#[test]
fn xz() {
    both_ways(&["xz", "--check=crc32", "--x86", "--lzma2=dict=128MiB"], true, 1);
}

/// lzop's own blocks and checksums.
#[test]
fn lzo() {
    both_ways(&["lzop", "-9"], true, 1);
}

/// Several blocks of 8 MiB, and the appended length behind them is no block.
#[test]
fn lz4() {
    both_ways(&["lz4", "-l", "-9", "-", "-"], true, 9);
}

/// Fedora, Ubuntu, Arch: a window of 128 MiB, which decoders refuse unless told otherwise.
#[test]
fn zstd() {
    both_ways(&["zstd", "-22", "--ultra"], true, 1);
}

/// A payload that was not packed.
#[test]
fn plain() {
    let kernel = kernel(1);
    let image = Image::parse(boot_image(&kernel)).unwrap();
    assert!(image.at(ADDRESS, 16) == kernel.get(120..136));
}
