// The arm in 3-D: links of a URDF as the server describes them, what the policy plans as a ghost, the tip's paths.

const COLOURS = { plan: [0.3, 0.59, 1], trail: [1, 0.71, 0.33], bone: [0.81, 0.83, 0.85], grid: [0.27, 0.32, 0.38] };
const TRAIL_MS = 4000, NUM_PATH = 25;

const VERTEX = `attribute vec3 at; attribute vec3 normal; uniform mat4 view, place; varying vec3 facing;
void main() { facing = mat3(place) * normal; gl_Position = view * place * vec4(at, 1.0); }`;
const FRAGMENT = `precision mediump float; uniform vec4 colour; uniform float lit; varying vec3 facing;
void main() { vec3 n = normalize(facing + vec3(1e-6)); float up = 0.5 + 0.5 * n.z;
  float sun = max(dot(n, vec3(0.45, -0.55, 0.70)), 0.0);
  float shade = mix(1.0, 0.28 + 0.30 * up + 0.50 * sun, lit);
  gl_FragColor = vec4(colour.rgb * shade, colour.a); }`;

export class Scene {
  constructor(canvas, { gl = canvas.getContext("webgl", { antialias: true, alpha: true }) } = {}) {
    Object.assign(this, { canvas, gl, robot: null, joints: null, plan: [], trail: [], isDirty: true });
    this.turn = -0.9;
    this.tilt = 0.42;
    this.zoom = 1;
    if (!gl) return;
    this.program = link(gl);
    this.where = Object.fromEntries(["view", "place", "colour", "lit"].map(
      (name) => [name, gl.getUniformLocation(this.program, name)]));
    this.solids = { box: solid(gl, box()), cylinder: solid(gl, cylinder()), sphere: solid(gl, sphere()) };
    this.listen();
    new ResizeObserver(() => (this.isDirty = true)).observe(canvas);
    this.isSeen = true;  // what has been scrolled away costs nothing
    new IntersectionObserver(([entry]) => (this.isSeen = entry.isIntersecting)).observe(canvas);
    const step = () => { this.draw(); requestAnimationFrame(step); };
    requestAnimationFrame(step);
  }

  get works() { return Boolean(this.gl); }

  setRobot(robot) {
    this.robot = robot;
    this.trail = [];
    this.plan = [];
    if (!this.gl) return;
    robot.links.forEach((one) => { one.moves = one.kind !== "fixed" || Boolean(robot.links[one.parent]?.moves); });
    const rest = this.places(robot.joints.map((joint) => Math.min(Math.max(0, joint.lower), joint.upper)));
    let reach = 0.1;
    for (const place of rest) reach = Math.max(reach, Math.hypot(place[12], place[13], place[14]));
    this.reach = reach;
    this.grid = this.makeGrid(reach);
    for (const linked of robot.links) for (const shape of linked.shapes)
      if (shape.corners) shape.solid = solid(this.gl, flat(shape.corners));
    this.isDirty = true;
  }

  setJoints(joints, command) {
    if (!this.robot) return;
    const next = joints || this.joints;
    if (differ(next, this.joints) || this.trail.length) this.isDirty = true;
    this.joints = next;
    if (command && differ(command, this.command) && command.every((value) => value !== null)) {
      const now = performance.now();
      this.trail.push([now, this.tips(command)]);
      this.command = command;
    }
    while (this.trail.length && this.trail[0][0] < performance.now() - TRAIL_MS) this.trail.shift();
  }

  /** Joint targets of a chunk; empty: nothing is planned. */
  setPlan(points) {
    this.isDirty ||= points !== this.plan;
    this.plan = points;
  }

  /** Where the tip of each arm is. */
  tips(joints) {
    const places = this.places(joints);
    return this.robot.tips.map((tip) => at(places[tip]));
  }

  /** Where each link is: a matrix, column by column. */
  places(joints) {
    const places = [];
    for (const one of this.robot.links) {
      let place = times(one.parent < 0 ? identity() : places[one.parent], pose(one.xyz, one.rpy));
      if (one.kind !== "fixed" && one.column >= 0) {
        const value = joints[one.column] * one.factor + one.offset;
        place = times(place, one.kind === "prismatic"
          ? moved(one.axis.map((part) => part * value)) : turned(one.axis, value));
      }
      places.push(place);
    }
    return places;
  }

  draw() {
    const { gl, canvas, robot } = this;
    if (!robot || !this.isDirty || !this.isSeen || !canvas.clientWidth) return;
    this.isDirty = false;
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    canvas.width = Math.round(canvas.clientWidth * scale);
    canvas.height = Math.round(canvas.clientHeight * scale);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0.09, 0.11, 0.135, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.useProgram(this.program);
    gl.uniformMatrix4fv(this.where.view, false, this.lookAt(canvas.width / canvas.height));
    if (!robot.links.length) return;
    this.put(this.grid, identity(), [...COLOURS.grid, 1], 0, gl.LINES);
    if (this.joints && this.joints.every((value) => value !== null)) this.putArm(this.joints, 1);
    const now = performance.now(), thin = 0.005 * this.reach;
    this.putPaths(this.trail.filter(([t]) => t > now - TRAIL_MS).map(([, tips]) => tips), COLOURS.trail, thin);
    if (this.plan.length) {
      const step = Math.max(1, Math.ceil(this.plan.length / NUM_PATH));
      const some = this.plan.filter((_, i) => i % step === 0 || i === this.plan.length - 1);
      this.putPaths(some.map((point) => this.tips(point)), COLOURS.plan, 1.6 * thin);
      this.putArm(this.plan[this.plan.length - 1], 0.3);
    }
  }

  putArm(joints, alpha) {
    const { gl } = this, places = this.places(joints), isGhost = alpha < 1;
    if (isGhost) {  // its own depth first, so that nothing of it shines through itself
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
      gl.colorMask(false, false, false, false);
      this.putLinks(places, alpha);
      gl.colorMask(true, true, true, true);
      gl.depthFunc(gl.EQUAL);
    }
    this.putLinks(places, alpha);
    gl.depthFunc(gl.LESS);
    gl.disable(gl.BLEND);
  }

  putLinks(places, alpha) {
    const { links } = this.robot, thick = 0.022 * this.reach;
    const hasShapes = links.some((one) => one.shapes.length);
    links.forEach((one, i) => {
      if (alpha < 1 && !one.moves) return;
      for (const shape of one.shapes) this.putShape(places[i], shape, alpha);
      if (hasShapes || one.parent < 0) return;
      const from = at(places[one.parent]), to = at(places[i]);
      this.putRod(from, to, thick, this.tint(COLOURS.bone, alpha));
      if (one.kind !== "fixed") this.putBall(to, 1.45 * thick, this.tint([0.42, 0.47, 0.54], alpha));
    });
  }

  tint(colour, alpha) {
    return alpha < 1 ? [...COLOURS.plan, alpha] : [...colour.slice(0, 3), 1];
  }

  putShape(place, shape, alpha) {
    const whole = times(place, pose(shape.xyz, shape.rpy)), colour = this.tint(shape.colour, alpha);
    if (shape.solid) return this.put(shape.solid, whole, colour);
    const [a, b] = shape.size;
    if (shape.type === "box") this.put(this.solids.box, times(whole, sized(...shape.size)), colour);
    else if (shape.type === "sphere") this.put(this.solids.sphere, times(whole, sized(a, a, a)), colour);
    else this.put(this.solids.cylinder, times(whole, sized(a, a, b)), colour);
    if (shape.type === "capsule") for (const end of [-b / 2, b / 2])
      this.put(this.solids.sphere, times(times(whole, moved([0, 0, end])), sized(a, a, a)), colour);
  }

  putPaths(moments, colour, radius) {
    moments.forEach((tips, i) => tips.forEach((tip, arm) => {
      if (i) this.putRod(moments[i - 1][arm], tip, 0.55 * radius, [...colour, 1]);
      if (i === moments.length - 1) this.putBall(tip, 2 * radius, [...colour, 1]);
    }));
  }

  putBall(center, radius, colour) {
    this.put(this.solids.sphere, times(moved(center), sized(radius, radius, radius)), colour);
  }

  putRod(from, to, radius, colour) {
    const way = to.map((value, i) => value - from[i]), length = Math.hypot(...way);
    if (length < 1e-5) return;
    const z = way.map((value) => value / length), x = normal(Math.abs(z[2]) < 0.9 ? cross([0, 0, 1], z) : [1, 0, 0], z);
    const y = cross(z, x), middle = from.map((value, i) => value + way[i] / 2);
    const place = new Float32Array([...x, 0, ...y, 0, ...z, 0, ...middle, 1]);
    this.put(this.solids.cylinder, times(place, sized(radius, radius, length)), colour);
  }

  put(solid, place, colour, lit = 1, mode = this.gl.TRIANGLES) {
    const { gl, where } = this;
    gl.bindBuffer(gl.ARRAY_BUFFER, solid.buffer);
    for (const [index, offset] of [[0, 0], [1, 12]]) {
      gl.enableVertexAttribArray(index);
      gl.vertexAttribPointer(index, 3, gl.FLOAT, false, 24, offset);
    }
    gl.uniformMatrix4fv(where.place, false, place);
    gl.uniform4fv(where.colour, colour);
    gl.uniform1f(where.lit, lit);
    gl.drawArrays(mode, 0, solid.count);
  }

  makeGrid(reach) {
    const step = reach > 3 ? 1 : reach > 0.3 ? 0.1 : 0.02, half = Math.ceil((1.1 * reach) / step) * step, lines = [];
    for (let value = -half; value <= half + 1e-9; value += step)
      for (const [a, b] of [[[value, -half], [value, half]], [[-half, value], [half, value]]])
        lines.push(...a, 0, 0, 0, 1, ...b, 0, 0, 0, 1);
    return solid(this.gl, lines);
  }

  lookAt(aspect) {
    const far = (1.85 * this.reach * Math.max(1, 1.1 / aspect)) / this.zoom, center = [0.18 * this.reach, 0, 0.3 * this.reach];
    const back = [Math.cos(this.tilt) * Math.cos(this.turn), Math.cos(this.tilt) * Math.sin(this.turn), Math.sin(this.tilt)];
    const x = normal(cross([0, 0, 1], back)), y = cross(back, x), eye = center.map((value, i) => value + far * back[i]);
    const dot = (a) => -a.reduce((sum, value, i) => sum + value * eye[i], 0);
    const view = new Float32Array([
      x[0], y[0], back[0], 0, x[1], y[1], back[1], 0, x[2], y[2], back[2], 0, dot(x), dot(y), dot(back), 1]);
    const near = far / 50, end = far * 10, f = 1 / Math.tan(0.36);
    const lens = new Float32Array([
      f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (end + near) / (near - end), -1, 0, 0, (2 * end * near) / (near - end), 0]);
    return times(lens, view);
  }

  listen() {
    const { canvas } = this;
    let last = null;
    canvas.addEventListener("pointerdown", (event) => {
      last = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      this.turn -= (event.clientX - last[0]) * 0.008;
      this.tilt = Math.min(1.5, Math.max(-0.3, this.tilt + (event.clientY - last[1]) * 0.006));
      last = [event.clientX, event.clientY];
      this.isDirty = true;
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom = Math.min(5, Math.max(0.3, this.zoom * Math.exp(-event.deltaY * 0.001)));
      this.isDirty = true;
    }, { passive: false });
  }
}

function link(gl) {
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.bindAttribLocation(program, 0, "at");
  gl.bindAttribLocation(program, 1, "normal");
  gl.linkProgram(program);
  return program;
}

/** A buffer of corners with their normals, six numbers each. */
function solid(gl, values) {
  const buffer = gl.createBuffer();
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(values), gl.STATIC_DRAW);
  return { buffer, count: values.length / 6 };
}

function box() {
  const values = [];
  for (let axis = 0; axis < 3; axis++) for (const side of [-0.5, 0.5]) {
    const corner = (a, b) => { const at = [0, 0, 0]; at[axis] = side; at[(axis + 1) % 3] = a; at[(axis + 2) % 3] = b; return at; };
    const facing = [0, 0, 0];
    facing[axis] = 2 * side;
    for (const [a, b] of [[-1, -1], [1, -1], [1, 1], [-1, -1], [1, 1], [-1, 1]])
      values.push(...corner(a / 2, b / 2), ...facing);
  }
  return values;
}

function cylinder(sides = 28) {
  const values = [], round = (i) => [Math.cos((2 * Math.PI * i) / sides), Math.sin((2 * Math.PI * i) / sides)];
  for (let i = 0; i < sides; i++) {
    const a = round(i), b = round(i + 1);
    for (const [edge, z] of [[a, -0.5], [b, -0.5], [b, 0.5], [a, -0.5], [b, 0.5], [a, 0.5]]) values.push(...edge, z, ...edge, 0);
    for (const z of [-0.5, 0.5]) for (const at of [[0, 0], a, b]) values.push(...at, z, 0, 0, 2 * z);
  }
  return values;
}

function sphere(rings = 12, sides = 24) {
  const values = [], point = (i, j) => {
    const up = (Math.PI * i) / rings, around = (2 * Math.PI * j) / sides;
    return [Math.sin(up) * Math.cos(around), Math.sin(up) * Math.sin(around), Math.cos(up)];
  };
  for (let i = 0; i < rings; i++) for (let j = 0; j < sides; j++)
    for (const [a, b] of [[i, j], [i + 1, j], [i + 1, j + 1], [i, j], [i + 1, j + 1], [i, j + 1]]) {
      const at = point(a, b);
      values.push(...at, ...at);
    }
  return values;
}

/** Triangles as they are, each lit by its own plane. */
function flat(corners) {
  const values = [];
  for (let i = 0; i + 8 < corners.length; i += 9) {
    const [a, b, c] = [0, 3, 6].map((k) => corners.slice(i + k, i + k + 3));
    const facing = normal(cross(b.map((v, k) => v - a[k]), c.map((v, k) => v - a[k])));
    for (const corner of [a, b, c]) values.push(...corner, ...facing);
  }
  return values;
}

/** By more than a sensor's noise. */
function differ(some, others) {
  return Boolean(some) !== Boolean(others) || Boolean(some?.some((value, i) => !(Math.abs(value - others[i]) < 5e-4)));
}

const at = (place) => [place[12], place[13], place[14]];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const identity = () => new Float32Array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]);
const moved = ([x, y, z]) => new Float32Array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, x, y, z, 1]);
const sized = (x, y, z) => new Float32Array([x, 0, 0, 0, 0, y, 0, 0, 0, 0, z, 0, 0, 0, 0, 1]);

/** Of length 1, and at right angles to `other` where there is one. */
function normal(vector, other = null) {
  const along = other ? vector.reduce((sum, value, i) => sum + value * other[i], 0) : 0;
  const rest = other ? vector.map((value, i) => value - along * other[i]) : vector, length = Math.hypot(...rest) || 1;
  return rest.map((value) => value / length);
}

function times(a, b) {
  const product = new Float32Array(16);
  for (let column = 0; column < 4; column++) for (let row = 0; row < 4; row++) {
    let sum = 0;
    for (let k = 0; k < 4; k++) sum += a[4 * k + row] * b[4 * column + k];
    product[4 * column + row] = sum;
  }
  return product;
}

function turned(axis, angle) {
  const [x, y, z] = normal(axis), c = Math.cos(angle), s = Math.sin(angle), d = 1 - c;
  return new Float32Array([
    c + x * x * d, y * x * d + z * s, z * x * d - y * s, 0, x * y * d - z * s, c + y * y * d, z * y * d + x * s, 0,
    x * z * d + y * s, y * z * d - x * s, c + z * z * d, 0, 0, 0, 0, 1]);
}

function pose(xyz, rpy) {
  const [roll, pitch, yaw] = rpy;
  return times(moved(xyz), times(turned([0, 0, 1], yaw), times(turned([0, 1, 0], pitch), turned([1, 0, 0], roll))));
}
