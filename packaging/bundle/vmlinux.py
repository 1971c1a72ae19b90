# SPDX-License-Identifier: Apache-2.0
"""Takes the ELF kernel out of a bzImage.

The place of the payload is in the setup header (Documentation/arch/x86/boot.rst, protocol 2.08 and later):
setup_sects at 0x1f1, payload_offset at 0x248, payload_length at 0x24c. The last 4 bytes of the payload are
the size of the uncompressed kernel, put there by the kernel's build.
"""
import struct
import subprocess

DECOMPRESSORS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4"}


def extract(image):
    """bytes of vmlinuz -> bytes of vmlinux; raises ValueError or OSError with the reason"""
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        raise ValueError("the kernel is not a bzImage")
    protocol, = struct.unpack_from("<H", image, 0x206)
    if protocol < 0x208:
        raise ValueError("the kernel's boot protocol is older than 2.08")
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    if length < 8 or start + length > len(image):
        raise ValueError("the kernel's payload lies outside the file")
    payload = image[start:start + length - 4]
    size, = struct.unpack_from("<I", image, start + length - 4)
    tool = DECOMPRESSORS.get(payload[:4])
    if not tool:
        raise ValueError("the kernel's payload is neither zstd nor lz4 (magic %s)" % payload[:4].hex())
    try:
        kernel = subprocess.run([tool, "-dcq"], input=payload, stdout=subprocess.PIPE, check=True).stdout
    except FileNotFoundError:
        raise ValueError("the program %s is missing: apt-get install %s" % (tool, tool)) from None
    except subprocess.CalledProcessError:
        raise ValueError("%s could not unpack the kernel" % tool) from None
    if len(kernel) != size:
        raise ValueError("the unpacked kernel has %d bytes, its header says %d" % (len(kernel), size))
    if kernel[:6] != b"\x7fELF\x02\x01":
        raise ValueError("the unpacked kernel is not a little-endian ELF64 file")
    return kernel
