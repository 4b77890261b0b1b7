// A player of exported policies for browsers and for Node.js. Copy this file into your program.
//
// In a browser, onnxruntime-web comes from npm and a bundler, or from a CDN. For Node.js, the
// package onnxruntime-node has the same calls and is faster: change the next line.

import * as ort from "onnxruntime-web";

const FORMAT = 1;

// numpy's name of a dtype -> onnxruntime's name of the type, and the array that holds it.
const TYPES = {
  bool: ["bool", Uint8Array],
  int8: ["int8", Int8Array],
  uint8: ["uint8", Uint8Array],
  int16: ["int16", Int16Array],
  uint16: ["uint16", Uint16Array],
  int32: ["int32", Int32Array],
  uint32: ["uint32", Uint32Array],
  int64: ["int64", BigInt64Array],
  uint64: ["uint64", BigUint64Array],
  float32: ["float32", Float32Array],
  float64: ["float64", Float64Array],
};

/** Open an exported file, given as its bytes. */
export async function loadPlayer(bytes) {
  const metadata = readMetadata(bytes);
  if (metadata.format !== FORMAT || metadata.contents !== "player") {
    throw new Error(
      `expected a player of format ${FORMAT}, found ${metadata.contents} of format ` +
        `${metadata.format}, written by policystore ${metadata.policystore}`,
    );
  }
  return new Player(await ort.InferenceSession.create(bytes), metadata);
}

export class Player {
  constructor(session, metadata) {
    this.session = session;
    this.metadata = metadata; // spaces, tensors and their meaning: docs/play.md
    this.digest = metadata.digest; // of the snapshot that was exported
    this.bounds = metadata.inputs.map(({ path }) => boundsOf(metadata.observation_space, path));
    this.turn = Promise.resolve(); // ends when the last call has ended
    this.reset();
  }

  /** Begin a new episode with the next observation. Calls that are under way go on before. */
  reset() {
    this.turn = this.turn.then(() => {
      this.state = Object.fromEntries(
        this.metadata.state.map((part) => [part.input, zeros(part)]),
      );
    });
  }

  /** Return the action for one observation, and go on with the episode. Calls run one by one. */
  async act(observation) {
    const inputs = this.metadata.inputs.map((input, i) => {
      const value = input.path.reduce((part, key) => part?.[key], observation);
      return [input.name, tensorOf(value, input, this.bounds[i])];
    });
    const acted = this.turn.then(() => this.step(inputs));
    this.turn = acted.catch(() => {}); // the next call goes on after a failed one
    return acted;
  }

  async step(inputs) {
    const results = await this.session.run({ ...this.state, ...Object.fromEntries(inputs) });
    if (Object.values(results).some(({ data }) => data.some(Number.isNaN))) {
      throw new Error("the policy computes NaN: numbers of the observation are too large");
    }
    for (const part of this.metadata.state) this.state[part.input] = results[part.output];
    const parts = new Map(
      this.metadata.outputs.map((output) => [output.name, valueOf(results[output.name], output)]),
    );
    return put(this.metadata.action_space, parts, "action");
  }
}

/** Return the least values of the space at a path, and how many values each number has. */
function boundsOf(space, path) {
  for (const key of path) {
    space = space.spaces[space.space === "Dict" ? space.keys.indexOf(key) : key];
  }
  if (space.space === "Discrete") return { start: [space.start], count: [space.n] };
  if (space.space === "MultiBinary") return { start: [0], count: [2] };
  if (space.space !== "MultiDiscrete") return null;
  return { start: integersOf(space.start, space), count: integersOf(space.nvec, space) };
}

/** Return the numbers of an array in JSON: all bytes in hex, or one number for all: docs/spaces.md */
function integersOf(written, { dtype }) {
  if (typeof written === "number") return [written];
  const bytes = Uint8Array.from(written.match(/../g), (digits) => parseInt(digits, 16));
  return Array.from(new TYPES[dtype][1](bytes.buffer), Number);
}

/** Return the numbers of nested lists and typed arrays, in order. */
function flatten(value) {
  if (ArrayBuffer.isView(value)) return Array.from(value);
  return Array.isArray(value) ? value.flatMap(flatten) : [value];
}

/** Return an array as a tensor of one row. */
function tensorOf(value, { name, dtype, shape }, bounds) {
  const [type, ArrayType] = TYPES[dtype];
  const flat = flatten(value);
  const size = shape.reduce((product, length) => product * length, 1);
  if (flat.length !== size) {
    const first = flat.slice(0, 8).map(String).join(",") + (flat.length > 8 ? ",…" : "");
    throw new Error(`${name}: expected ${size} numbers, found ${flat.length}: [${first}]`);
  }
  const numbers = new ArrayType(size);
  const long = type.endsWith("int64"); // whose numbers JavaScript calls BigInt
  flat.forEach((number, i) => {
    const isNumber = ["number", "bigint", "boolean"].includes(typeof number);
    const plain = isNumber ? Number(number) : NaN;
    if (Number.isInteger(plain) || !long) numbers[i] = long ? BigInt(plain) : plain;
    // An array of floats rounds a number, and may make it infinite. Other arrays have to keep it.
    const kept = dtype.startsWith("float") ? !Number.isNaN(plain) : Number(numbers[i]) === plain;
    const start = bounds && (bounds.start[i] ?? bounds.start[0]);
    const end = bounds && start + (bounds.count[i] ?? bounds.count[0]);
    if (!kept || (bounds && (plain < start || plain >= end))) {
      const found = typeof number === "string" ? JSON.stringify(number) : String(number);
      const range = bounds ? ` from ${start} to ${end - 1}` : "";
      throw new Error(`${name}: expected a number of type ${dtype}${range}, found ${found}`);
    }
  });
  return new ort.Tensor(type, numbers, [1, ...shape]);
}

function zeros({ dtype, shape }) {
  const [type, ArrayType] = TYPES[dtype];
  const size = shape.reduce((product, length) => product * length, 1);
  return new ort.Tensor(type, new ArrayType(size), [1, ...shape]);
}

/** Return the only row of a tensor as a number or as nested lists. */
function valueOf(tensor, { shape }) {
  let values = Array.from(tensor.data, Number);
  for (const length of shape.slice(1).reverse()) {
    values = Array.from({ length: values.length / length }, (_, row) =>
      values.slice(row * length, (row + 1) * length),
    );
  }
  return shape.length === 0 ? values[0] : values;
}

/** Put the parts of an action together in the structure of the action space. */
function put(space, parts, name) {
  if (space.space === "Dict") {
    const escaped = (key) => String(key).replaceAll("~", "~0").replaceAll("/", "~1");
    return Object.fromEntries(
      space.keys.map((key, i) => [key, put(space.spaces[i], parts, `${name}/${escaped(key)}`)]),
    );
  }
  if (space.space === "Tuple") {
    return space.spaces.map((inner, i) => put(inner, parts, `${name}/${i}`));
  }
  return parts.get(name);
}

/** Read the JSON that an ONNX file holds under the key "policystore" of its metadata_props. */
export function readMetadata(bytes) {
  const METADATA_PROPS = 14; // of a ModelProto: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3
  for (const [number, property] of fields(bytes)) {
    if (number !== METADATA_PROPS) continue;
    const texts = new Map(
      [...fields(property)].map(([field, value]) => [field, new TextDecoder().decode(value)]),
    );
    if (texts.get(1) === "policystore") return JSON.parse(texts.get(2));
  }
  throw new Error("expected a file that policystore exported, found no metadata of policystore");
}

/** Yield the number and the bytes of each field of a protobuf message that holds bytes. */
function* fields(bytes) {
  let position = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; position < bytes.length; factor *= 128) {
      const byte = bytes[position++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
    throw new Error("not an ONNX file, or a part of the file is missing");
  };
  while (position < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1 || kind === 5) position += kind === 1 ? 8 : 4;
    else if (kind === 2) {
      const length = varint();
      yield [Math.floor(tag / 8), bytes.subarray(position, position + length)];
      position += length;
    } else throw new Error("not an ONNX file");
  }
}
