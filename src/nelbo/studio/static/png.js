// The settings that nelbo keeps in the metadata of its PNG files.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const KEY = "nelbo";

/** The settings in a PNG file; null for another file, or one without them. */
export async function readSettings(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (SIGNATURE.some((byte, i) => bytes[i] !== byte)) return null;
  const view = new DataView(bytes.buffer);
  const latin = new TextDecoder("latin1");
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const kind = latin.decode(bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, at + 8 + length);
    if (kind === "IEND") return null;
    if (kind === "iTXt" || kind === "tEXt") {
      const text = textOf(kind, data, latin);
      if (text) return objectIn(text);
    }
    at += 12 + length;
  }
  return null;
}

function objectIn(text) {
  try {
    const found = JSON.parse(text);
    return typeof found === "object" ? found : null;
  } catch {
    return null;
  }
}

function textOf(kind, data, latin) {
  const end = data.indexOf(0);
  if (latin.decode(data.subarray(0, end)) !== KEY) return null;
  if (kind === "tEXt") return latin.decode(data.subarray(end + 1));
  if (data[end + 1] !== 0) return null; // compressed, as nelbo never writes it
  const language = data.indexOf(0, end + 3);
  const translated = data.indexOf(0, language + 1);
  return new TextDecoder().decode(data.subarray(translated + 1));
}
