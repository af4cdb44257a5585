// A point cloud on the graphics card: draws, recolours by segment, and tells which segment is where.
// Colours of segments are a small texture, so that recolouring sends a few kilobytes and draws once.

const VERTEX = `#version 300 es
precision highp float;
uniform highp sampler2D table;
uniform mat4 view;
uniform vec3 extent;
uniform float cut, size, grey;
uniform bool pick, own;
in vec3 place;
in vec3 colour;
in uint segment;
flat out uint id;
out vec3 paint;
void main() {
  vec4 entry = texelFetch(table, ivec2(int(segment) & 255, int(segment) >> 8), 0);
  float mean = 0.299 * colour.r + 0.587 * colour.g + 0.114 * colour.b;
  vec3 base = mix(colour, vec3(mean), grey);
  paint = own ? colour : mix(base, entry.rgb * (0.72 + 0.28 * mean), entry.a);
  id = segment + 1u;
  gl_Position = view * vec4(place * extent, 1.0);
  if (place.z > cut) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  gl_PointSize = clamp(size / gl_Position.w, 1.0, 24.0) + (pick ? 2.0 : 0.0);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
precision highp int;
uniform bool pick;
flat in highp uint id;
in vec3 paint;
out vec4 result;
void main() {
  if (pick) {
    result = vec4(float(id & 255u), float((id >> 8) & 255u), float(id >> 16), 255.0) / 255.0;
  } else {
    vec2 p = gl_PointCoord - 0.5;
    if (dot(p, p) > 0.25) discard;
    result = vec4(paint, 1.0);
  }
}`;

const PICK = 9; // pixels around the pointer that are searched
const HOVER_POINTS = 150_000; // enough to find a segment under the pointer

export class Cloud {
  /** `gl`: a WebGL 2 context. */
  constructor(gl) {
    this.gl = gl;
    this.program = link(gl);
    this.at = Object.fromEntries(["table", "view", "extent", "cut", "size", "grey", "pick", "own"].map(
      (name) => [name, gl.getUniformLocation(this.program, name)]));
    this.buffers = [];
    this.texture = gl.createTexture();
    this.count = 0;
    this.cut = 1;
    this.grey = 0;
    this.drawn = 0;
    this.budget = 300_000;
  }

  load({ place, colour, segment, extent }) {
    const { gl } = this;
    for (const buffer of this.buffers) gl.deleteBuffer(buffer);
    this.array ??= gl.createVertexArray();
    gl.bindVertexArray(this.array);
    this.count = segment.length;
    this.extent = extent;
    this.buffers = [
      this.attribute("place", place, 3, gl.UNSIGNED_SHORT, 8),
      this.attribute("colour", colour, 3, gl.UNSIGNED_BYTE, 4),
      this.attribute("segment", segment, 1, gl.UNSIGNED_SHORT, 2),
    ];
    this.colours = colour;
    this.ownColours = false;
    // Neighbouring points lie about this far apart on the surfaces of a room.
    const [x, y, z] = extent;
    this.spacing = Math.sqrt((x * y + 0.7 * (x + y) * z) * 1.6 / Math.max(this.count, 1));
  }

  attribute(name, values, size, type, stride) {
    const { gl } = this;
    const buffer = gl.createBuffer();
    const where = gl.getAttribLocation(this.program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(where);
    if (name === "segment") gl.vertexAttribIPointer(where, size, type, stride, 0);
    else gl.vertexAttribPointer(where, size, type, true, stride, 0);
    return buffer;
  }

  /** Other colours for the points themselves (RGBA bytes), or null for those of the file. */
  paintPoints(colours) {
    const { gl } = this;
    if (!colours && !this.ownColours) return;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[1]);
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, colours ?? this.colours);
    this.ownColours = Boolean(colours);
  }

  /** RGBA bytes, one entry a segment; alpha is how much of the point's own colour it covers. */
  paintSegments(entries) {
    const { gl } = this;
    const rows = Math.max(1, Math.ceil(entries.length / 4 / 256));
    const full = new Uint8Array(rows * 1024);
    full.set(entries);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, rows, 0, gl.RGBA, gl.UNSIGNED_BYTE, full);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  }

  use(view, camera, pick) {
    const { gl, at } = this;
    gl.useProgram(this.program);
    gl.bindVertexArray(this.array);
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.enable(gl.DEPTH_TEST);
    gl.uniform1i(at.table, 0);
    gl.uniformMatrix4fv(at.view, false, view);
    gl.uniform3f(at.extent, ...this.extent);
    gl.uniform1f(at.cut, this.cut);
    gl.uniform1f(at.grey, this.grey);
    gl.uniform1i(at.pick, pick ? 1 : 0);
    gl.uniform1i(at.own, this.ownColours ? 1 : 0);
    const pixels = gl.drawingBufferHeight / (2 * Math.tan(camera.angle / 2));
    // A prefix has larger gaps: its points are drawn larger.
    this.sizeFor = (n) => gl.uniform1f(at.size, 2 * this.spacing * pixels
      * Math.min(3, Math.sqrt(this.count / Math.max(1, n))));
  }

  /** Draw points from..to over what is there (from 0: on a clean page). */
  draw(camera, background, from, to) {
    const { gl } = this;
    const view = camera.matrix(gl.drawingBufferWidth / gl.drawingBufferHeight, this.extent);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight);
    this.use(view, camera, false);
    if (from === 0) {
      gl.clearColor(...background.map((v) => v / 255), 1);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    }
    this.sizeFor(from === 0 ? to : this.count);
    gl.drawArrays(gl.POINTS, from, to - from);
    this.drawn = to;
  }

  /** The segment nearest to (x, y) in device pixels from the top left, or null. */
  pick(camera, x, y) {
    const { gl } = this;
    const [width, height] = [gl.drawingBufferWidth, gl.drawingBufferHeight];
    this.target(width, height);
    const view = camera.matrix(width / height, this.extent);
    const half = PICK >> 1;
    const [left, bottom] = [Math.round(x) - half, Math.round(height - y) - half];
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.viewport(0, 0, width, height);
    gl.enable(gl.SCISSOR_TEST);
    gl.scissor(left, bottom, PICK, PICK);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    this.use(view, camera, true);
    const count = Math.min(this.count, HOVER_POINTS);
    this.sizeFor(count);
    gl.drawArrays(gl.POINTS, 0, count);
    const pixels = new Uint8Array(4 * PICK * PICK);
    gl.readPixels(left, bottom, PICK, PICK, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    gl.disable(gl.SCISSOR_TEST);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    let best = null;
    let away = Infinity;
    for (let i = 0; i < PICK * PICK; i++) {
      if (!pixels[4 * i + 3]) continue;
      const d = Math.hypot((i % PICK) - half, Math.floor(i / PICK) - half);
      if (d < away) {
        away = d;
        best = pixels[4 * i] + 256 * pixels[4 * i + 1] + 65536 * pixels[4 * i + 2] - 1;
      }
    }
    return best;
  }

  /** An off-screen picture of the size of the canvas, for segment numbers. */
  target(width, height) {
    const { gl } = this;
    if (this.frame && this.frameSize === `${width} ${height}`) return;
    this.frameSize = `${width} ${height}`;
    this.frame ??= gl.createFramebuffer();
    this.colourStore ??= gl.createRenderbuffer();
    this.depthStore ??= gl.createRenderbuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.bindRenderbuffer(gl.RENDERBUFFER, this.colourStore);
    gl.renderbufferStorage(gl.RENDERBUFFER, gl.RGBA8, width, height);
    gl.framebufferRenderbuffer(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.RENDERBUFFER, this.colourStore);
    gl.bindRenderbuffer(gl.RENDERBUFFER, this.depthStore);
    gl.renderbufferStorage(gl.RENDERBUFFER, gl.DEPTH_COMPONENT24, width, height);
    gl.framebufferRenderbuffer(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.RENDERBUFFER, this.depthStore);
  }

  dispose() {
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

function link(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source.trimStart());
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  return program;
}

/** An eye that circles round a point of interest; z is up. Angles in radians, lengths in metres. */
export class OrbitCamera {
  constructor() {
    this.angle = 0.8;
    this.home([1, 1, 1]);
  }

  home(extent) {
    this.target = extent.map((v, i) => v * (i === 2 ? 0.35 : 0.5));
    this.size = Math.hypot(...extent);
    this.distance = 0.98 * this.size;
    this.yaw = -0.9;
    this.pitch = 0.85;
  }

  turn(dx, dy) {
    this.yaw -= dx;
    this.pitch = Math.max(-1.55, Math.min(1.55, this.pitch + dy));
  }

  zoom(factor) {
    this.distance = Math.max(0.02 * this.size, Math.min(6 * this.size, this.distance * factor));
  }

  /** Move the point of interest by a share of the picture's height. */
  pan(dx, dy) {
    const { right, up } = this.axes();
    const step = 2 * Math.tan(this.angle / 2) * this.distance;
    for (let i = 0; i < 3; i++) this.target[i] += (-dx * right[i] + dy * up[i]) * step;
  }

  axes() {
    const [sy, cy, sp, cp] = [Math.sin(this.yaw), Math.cos(this.yaw), Math.sin(this.pitch), Math.cos(this.pitch)];
    return { right: [-sy, cy, 0], up: [-cy * sp, -sy * sp, cp], back: [cy * cp, sy * cp, sp] };
  }

  /** Column-major projection * view. */
  matrix(aspect, extent) {
    const { right, up, back } = this.axes();
    const eye = this.target.map((v, i) => v + back[i] * this.distance);
    const far = this.distance + 2 * Math.hypot(...extent);
    const near = Math.max(0.01, far / 4000);
    const f = 1 / Math.tan(this.angle / 2);
    const dot = (a) => -(a[0] * eye[0] + a[1] * eye[1] + a[2] * eye[2]);
    const [a, b] = [(far + near) / (near - far), (2 * far * near) / (near - far)];
    const out = new Float32Array(16);
    for (let i = 0; i < 3; i++) {
      out[4 * i] = (f / aspect) * right[i];
      out[4 * i + 1] = f * up[i];
      out[4 * i + 2] = a * back[i];
      out[4 * i + 3] = -back[i];
    }
    out[12] = (f / aspect) * dot(right);
    out[13] = f * dot(up);
    out[14] = a * dot(back) + b;
    out[15] = -dot(back);
    return out;
  }
}
