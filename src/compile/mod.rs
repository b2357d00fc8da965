//! Compile the units a patch can reach, original and patched, without writing to the kernel tree.
