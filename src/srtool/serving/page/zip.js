// ZIP files (APPNOTE 6.3) whose members are stored as they are: pictures are compressed already.

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});
const UTF_8 = 0x0800;
const LARGEST = 0xffffffff; // beyond it the format takes another form

/** One Blob of [[name, blob], ...]. The pictures' bytes are referred to, not copied. */
export async function zip(files) {
  const now = new Date();
  const time = (now.getHours() << 11) | (now.getMinutes() << 5) | (now.getSeconds() >> 1);
  const date = ((now.getFullYear() - 1980) << 9) | ((now.getMonth() + 1) << 5) | now.getDate();
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [name, blob] of files) {
    const title = new TextEncoder().encode(name);
    const checksum = await crc(blob);
    // version, flags, method, time, date, checksum, sizes, lengths of the name and of what follows
    const shared = [[2, 20], [2, UTF_8], [2, 0], [2, time], [2, date], [4, checksum],
      [4, blob.size], [4, blob.size], [2, title.length], [2, 0]];
    parts.push(bytes([[4, 0x04034b50], ...shared]), title, blob);
    // comment, disk, attributes inside and outside, offset
    directory.push(
      bytes([[4, 0x02014b50], [2, 20], ...shared, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]]),
      title,
    );
    offset += 30 + title.length + blob.size;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  if (offset + size > LARGEST || files.length > 0xffff) {
    throw new Error("more than 4 GB do not fit into a ZIP file; download the pictures one by one");
  }
  const end = bytes([[4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length],
    [4, size], [4, offset], [2, 0]]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

/** Names that a ZIP file may hold: "a.png", "a (2).png". */
export function distinct(names) {
  const taken = new Set();
  return names.map((name) => {
    const dot = name.lastIndexOf(".");
    const [stem, suffix] = dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ""];
    let found = name;
    for (let number = 2; taken.has(found.toLowerCase()); number++) {
      found = `${stem} (${number})${suffix}`;
    }
    taken.add(found.toLowerCase());
    return found;
  });
}

function bytes(fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [width]) => sum + width, 0)));
  let at = 0;
  for (const [width, value] of fields) {
    if (width === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += width;
  }
  return new Uint8Array(view.buffer);
}

async function crc(blob) {
  let sum = 0xffffffff;
  const reader = blob.stream().getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return (sum ^ 0xffffffff) >>> 0;
    for (const byte of value) sum = TABLE[(sum ^ byte) & 0xff] ^ (sum >>> 8);
  }
}
