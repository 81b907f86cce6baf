#!/usr/bin/env python3
"""Write a minimised vmlinux.h: the kernel types that the BPF programs use.

    generate.py [--btf FILE] [--types FILE] [--kernel NAME] [-o FILE]

The kernel describes its own types (BTF).  A full dump is three megabytes of C, but the
programs read only a hundred members.  types.txt names these; this script finds them in
the BTF and prints them as C.  One type per line:

    struct NAME: MEMBER ...      those members only, in the order of the kernel
    struct NAME: *               all members, laid out exactly as in the kernel
    struct NAME: uapi            the same, for a struct that is part of the kernel's
                                 stable interface: every kernel has the same layout
    union NAME: ...              the same for a union
    typedef NAME: MEMBER ...     those members of a struct that only a typedef names
    enum NAME [: VALUE ...]      an enum, or only those of its values
    enum-with VALUE [: VALUE ...]   the anonymous enum that holds VALUE

Members of anonymous inner structs and unions are listed, and printed, as if
they were direct members: at load time libbpf finds each member by its name
(CO-RE), wherever it lies in the running kernel's struct, unless the struct is
`uapi`.  So a struct with a list of members does not have the kernel's size: it
must not be put on the BPF stack or measured with sizeof.  One with `*` or `uapi`
may be.  Typedefs are added as needed.  A type, member or value that the BTF does
not have is an error.
"""
import argparse
import os
import struct
import sys

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)

# Types that libbpf's own headers need, and basic types for BPF code.
BASE_TYPEDEFS = """__u8 __u16 __u32 __u64 __s8 __s16 __s32 __s64 u8 u16 u32 u64 s8 s16 s32 s64
    __be16 __be32 __be64 __le16 __le32 __le64 __sum16 __wsum bool size_t""".split()


class SpecError(Exception):
    """types.txt has a mistake or names something that the BTF does not have."""


class Type:
    """One BTF record; `extra` is the data after it, which depends on its kind (see Btf.parse)."""

    def __init__(self, kind, name, ref, bitfields, extra):
        self.kind, self.name, self.ref, self.bitfields, self.extra = kind, name, ref, bitfields, extra


class Btf:
    """The type records of a raw BTF blob.  Type 0 is void."""

    def __init__(self, data):
        if data[:2] != b"\x9f\xeb":
            raise SpecError("not little-endian BTF")
        header, type_off, type_len, str_off, str_len = struct.unpack_from("<5I", data, 4)
        strings = data[header + str_off:header + str_off + str_len]
        self.types = [None]
        self.parse(data[header + type_off:header + type_off + type_len],
                   lambda at: strings[at:strings.index(b"\0", at)].decode())
        self.by_name = {}
        for t in self.types[1:]:
            self.by_name.setdefault((t.kind, t.name), []).append(t)

    def parse(self, data, text):
        at = 0
        while at < len(data):
            name, info, ref = struct.unpack_from("<3I", data, at)
            at += 12
            kind, count, flag = info >> 24 & 31, info & 0xffff, bool(info >> 31)
            words = {INT: 1, ARRAY: 3, VAR: 1, DECL_TAG: 1, STRUCT: 3 * count, UNION: 3 * count,
                     ENUM: 2 * count, ENUM64: 3 * count, DATASEC: 3 * count, FUNC_PROTO: 2 * count}.get(kind, 0)
            raw = struct.unpack_from(f"<{words}I", data, at)
            at += 4 * words
            extra = raw
            if kind in (STRUCT, UNION):     # (name, type, bits of a bitfield or 0)
                extra = [(text(raw[i]), raw[i + 1], raw[i + 2] >> 24 if flag else 0) for i in range(0, words, 3)]
            elif kind == ENUM:              # flag: values are signed
                extra = [(text(raw[i]), raw[i + 1] - (raw[i + 1] >> 31 << 32 if flag else 0))
                         for i in range(0, words, 2)]
            elif kind == ENUM64:
                extra = [(text(raw[i]), (raw[i + 1] | raw[i + 2] << 32) - (raw[i + 2] >> 31 << 64 if flag else 0))
                         for i in range(0, words, 3)]
            self.types.append(Type(kind, text(name), ref, flag, extra))

    def members(self, record):
        """The members of a struct, including those of anonymous inner structs and unions."""
        for name, ref, bits in record.extra:
            inner = self.types[ref]
            if not name and inner.kind in (STRUCT, UNION):
                yield from self.members(inner)
            else:
                yield name, ref, bits


def record_word(t):
    return "struct" if t.kind == STRUCT else "union"


def enum_body(t, only):
    missing = sorted(set(only or []) - {name for name, _ in t.extra})
    if missing:
        raise SpecError(f"enum {t.name or '(anonymous)'} has no {missing[0]}")
    rows = []
    for name, value in t.extra:
        if only is None or name in only:
            big = "ULL" if value > 0x7fffffff else ""
            rows.append(f"\t{name} = {value}{big},\n")
    return "{\n" + "".join(rows) + "}"


class Header:
    """Collects declarations, each after the ones that it needs."""

    def __init__(self, btf, records, uapi, enums, typedefs):
        self.btf, self.records, self.uapi, self.enums, self.typedefs = btf, records, uapi, enums, typedefs
        self.out, self.forward, self.done = [], set(), set()

    def emit(self, key, make):
        """Print make()'s text once; make() emits its own prerequisites."""
        if key not in self.done:
            self.done.add(key)
            self.out.append(make())

    def declare(self, ref, name, where, pointed=False):
        """C declaration of `name` with type `ref`, as `int (*name)[3]` would be."""
        t = self.btf.types[ref]
        if t is None:
            return f"void {name}"
        if t.kind in (VOLATILE, CONST, RESTRICT, TYPE_TAG):
            return self.declare(t.ref, name, where, pointed)
        if t.kind == PTR:
            target = t.ref
            while target and self.btf.types[target].kind in (VOLATILE, CONST, RESTRICT, TYPE_TAG):
                target = self.btf.types[target].ref
            kind = self.btf.types[target].kind if target else 0
            if kind == FUNC_PROTO:
                return f"void *{name}"
            return self.declare(target, f"(*{name})" if kind == ARRAY else f"*{name}", where, True)
        if t.kind == ARRAY:
            element, _, count = t.extra
            return self.declare(element, f"{name}[{count}]", where, pointed)
        if t.kind in (INT, FLOAT):
            return f"{t.name} {name}"
        if t.kind == TYPEDEF:
            self.typedef(t)
            return f"{t.name} {name}"
        if t.kind == FWD or (t.name and pointed and t.kind in (STRUCT, UNION)):
            union = t.kind == UNION or (t.kind == FWD and t.bitfields)
            self.forward.add(f"{'union' if union else 'struct'} {t.name};\n")
            return f"{'union' if union else 'struct'} {t.name} {name}"
        if t.kind in (STRUCT, UNION):
            if not t.name:
                return f"{record_word(t)} {self.body(t, None, where)} {name}"
            if (t.kind, t.name) not in self.records:
                raise SpecError(f"{where} holds a {record_word(t)} {t.name}, which is not listed")
            self.record(t.kind, t.name)
            return f"{record_word(t)} {t.name} {name}"
        if t.kind in (ENUM, ENUM64):
            if not t.name:
                return f"enum {enum_body(t, None)} {name}"
            if t.name not in self.enums:
                raise SpecError(f"{where} holds an enum {t.name}, which is not listed")
            self.enum(t.name)
            return f"enum {t.name} {name}"
        raise SpecError(f"{where}: a type of BTF kind {t.kind}")

    def typedef(self, t):
        def make():
            only = self.typedefs.get(t.name)
            if only:
                target = self.btf.types[t.ref]
                return f"\ntypedef {record_word(target)} {self.body(target, only, t.name)} {t.name};\n"
            text = f"typedef {self.declare(t.ref, t.name, t.name)};\n"
            return text if self.out and self.out[-1].lstrip().startswith("typedef") else "\n" + text
        self.emit((TYPEDEF, t.name), make)

    def enum(self, name):
        t = find(self.btf, (ENUM, ENUM64), name)
        self.emit((ENUM, name), lambda: f"\nenum {name} {enum_body(t, self.enums[name])};\n")

    def body(self, t, only, where):
        """All members, nested as in the kernel; or only the listed ones, without nesting."""
        missing = sorted(set(only or []) - {name for name, _, _ in self.btf.members(t)})
        if missing:
            raise SpecError(f"{where} has no member {missing[0]}")
        rows = []
        for name, ref, bits in (t.extra if only is None else self.btf.members(t)):
            inner = self.btf.types[ref]
            if not name:    # only with all members: C has no anonymous tagged struct, so drop the tag
                rows.append(f"{record_word(inner)} {self.body(inner, None, where)}")
            elif only is None or name in only:
                rows.append(self.declare(ref, name, f"{where}.{name}") + (f" : {bits}" if bits else ""))
        return "{\n" + "".join("\t" + row.replace("\n", "\n\t") + ";\n" for row in rows) + "}"

    def record(self, kind, name):
        t = find(self.btf, (kind,), name)
        only = self.records[kind, name]

        def make():
            text = f"\n{record_word(t)} {name} {self.body(t, only, f'{record_word(t)} {name}')};\n"
            if only is None:    # BTF lacks alignment attributes: assert that the size is right all the same
                text += f"_Static_assert(sizeof({record_word(t)} {name}) == {t.ref}, \"{name}\");\n"
            return text
        self.emit((kind, name), make)

    def print(self, anonymous, provenance):
        for name in BASE_TYPEDEFS:
            self.typedef(find(self.btf, (TYPEDEF,), name))
        for name in sorted(self.enums):
            self.enum(name)
        for t, only in anonymous:
            self.out.append(f"\nenum {enum_body(t, only)};\n")
        base, self.out = self.out, []
        for kind, name in sorted(self.uapi, key=lambda key: key[1]):
            self.record(kind, name)
        uapi, self.out = self.out, []
        for kind, name in sorted(self.records, key=lambda key: key[1]):
            self.record(kind, name)
        return "".join([
            f"/* The kernel types that the programs use: generated by `make vmlinux`, do not edit.\n"
            f" * From the BTF of {provenance}; which types and members: types.txt.\n */\n"
            "#ifndef __VMLINUX_H__\n#define __VMLINUX_H__\n", *base,
            "\n", *sorted(self.forward), *uapi,
            "\n#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)\n",
            *self.out,
            "\n#pragma clang attribute pop\n\n#endif\n"])


def find(btf, kinds, name):
    for kind in kinds:
        if (kind, name) in btf.by_name:
            return btf.by_name[kind, name][0]
    raise SpecError(f"the kernel has no type {name}")


def find_anonymous_enum(btf, value):
    for kind in (ENUM, ENUM64):
        for t in btf.by_name.get((kind, ""), []):
            if any(name == value for name, _ in t.extra):
                return t
    raise SpecError(f"the kernel has no anonymous enum with {value}")


WORDS = ("struct", "union", "typedef", "enum", "enum-with")


def read_spec(path, btf):
    records, uapi, enums, anonymous, typedefs = {}, set(), {}, {}, {}
    with open(path, encoding="ascii") as lines:
        for number, line in enumerate(lines, 1):
            head, colon, tail = line.partition("#")[0].partition(":")
            if not head.strip():
                continue
            words, listed = head.split(), tail.split()
            if len(words) != 2 or words[0] not in WORDS or (colon and not listed):
                raise SpecError(f"{path}:{number}: not understood: {line.strip()}")
            word, name = words
            if word == "enum":
                enums[name] = listed or None
            elif word == "enum-with":
                anonymous[name] = (find_anonymous_enum(btf, name), listed or None)
            elif not listed:
                raise SpecError(f"{path}:{number}: {word} {name} lists no members")
            elif word == "typedef":
                typedefs[name] = listed
            else:
                key = STRUCT if word == "struct" else UNION, name
                records[key] = None if listed in (["*"], ["uapi"]) else listed
                if listed == ["uapi"]:
                    uapi.add(key)
    return records, uapi, enums, typedefs, [anonymous[name] for name in sorted(anonymous)]


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    uname = os.uname()
    args = argparse.ArgumentParser(description="Write a minimised vmlinux.h.")
    args.add_argument("--btf", default="/sys/kernel/btf/vmlinux", help="raw BTF (default: the running kernel's)")
    args.add_argument("--types", default=os.path.join(here, "types.txt"))
    args.add_argument("--kernel", default=f"Linux {uname.release.split('-')[0]}, {uname.machine}",
                      help="what to call the kernel in the header's first lines")
    args.add_argument("-o", "--output", default=os.path.join(here, "vmlinux.h"))
    options = args.parse_args()
    try:
        with open(options.btf, "rb") as file:
            btf = Btf(file.read())
        records, uapi, enums, typedefs, anonymous = read_spec(options.types, btf)
        text = Header(btf, records, uapi, enums, typedefs).print(anonymous, options.kernel)
    except (OSError, SpecError) as error:
        sys.exit(f"generate.py: {error}")
    with open(options.output, "w", encoding="ascii") as file:
        file.write(text)


if __name__ == "__main__":
    main()
