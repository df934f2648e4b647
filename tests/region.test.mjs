// The arithmetic of marked parts: node --test tests/region.test.mjs
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  movedRegion,
  placeOf,
  regionBetween,
  regionName,
  resizedRegion,
} from "../vlm_magic/outputs/static/region.mjs";

const SIZE = [640, 480];

test("a part lies between two corners, whichever comes first", () => {
  const part = { x: 10, y: 20, width: 90, height: 30 };
  assert.deepEqual(regionBetween([10, 20], [100, 50], SIZE), part);
  assert.deepEqual(regionBetween([100, 20], [10, 50], SIZE), part);
  assert.deepEqual(regionBetween([100.4, 49.6], [9.6, 20.4], SIZE), part);
});

test("a part stays within the picture and holds a pixel", () => {
  assert.deepEqual(regionBetween([-50, -50], [9999, 9999], SIZE), { x: 0, y: 0, width: 640, height: 480 });
  assert.deepEqual(regionBetween([7, 7], [7, 7], SIZE), { x: 7, y: 7, width: 1, height: 1 });
  assert.deepEqual(regionBetween([9999, 9999], [9999, 9999], SIZE), { x: 639, y: 479, width: 1, height: 1 });
});

test("a moved part is as large as it was", () => {
  const part = { x: 10, y: 20, width: 90, height: 30 };
  assert.deepEqual(movedRegion(part, -99, 5, SIZE), { ...part, x: 0, y: 25 });
  assert.deepEqual(movedRegion(part, 9999, 9999, SIZE), { ...part, x: 550, y: 450 });
});

test("a part grows and shrinks at its lower right corner, never to nothing", () => {
  const part = { x: 10, y: 20, width: 90, height: 30 };
  assert.deepEqual(resizedRegion(part, 10, -5, SIZE), { ...part, width: 100, height: 25 });
  assert.deepEqual(resizedRegion(part, -9999, -9999, SIZE), { ...part, width: 1, height: 1 });
  assert.deepEqual(resizedRegion(part, 9999, 9999, SIZE), { ...part, width: 630, height: 460 });
});

test("a part is called as numpy slices it, a part of a part by its place in the whole", () => {
  const part = { x: 10, y: 20, width: 90, height: 30 };
  assert.equal(regionName("scene", part), "scene[20:50, 10:100]");
  assert.equal(regionName("", part), "picture[20:50, 10:100]");
  assert.equal(regionName("scene[100:400, 200:500]", part), "scene[120:150, 210:300]");
  assert.equal(regionName("photos[2]", part), "photos[2][20:50, 10:100]");
});

test("a picture that is not as wide as its element stands in the middle", () => {
  assert.deepEqual(placeOf([320, 240], SIZE), { left: 0, top: 0, scale: 0.5 });
  assert.deepEqual(placeOf([320, 480], SIZE), { left: 0, top: 120, scale: 0.5 });
  assert.deepEqual(placeOf([400, 100], [100, 100]), { left: 150, top: 0, scale: 1 });
});
