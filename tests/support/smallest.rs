//! The smallest ELF file that a kernel's image can be: one piece, loaded at an address.

/// The file, with this code loaded at `address`.
pub fn elf(address: u64, code: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 120];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &[2, 0, 62, 0, 1]);
    put(32, &64u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1]);
    put(64, &[1, 0, 0, 0, 5]);
    put(72, &120u64.to_le_bytes());
    put(80, &address.to_le_bytes());
    put(96, &(code.len() as u64).to_le_bytes());
    put(104, &(code.len() as u64).to_le_bytes());
    file.extend_from_slice(code);
    file
}
