// Serialized SentencePiece models for tests: a small vocabulary with the symbols of Gemma's, built field by field so
// that tests can also break it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace baton {

// Piece types of sentencepiece_model.proto.
enum ModelPieceType { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct ModelPiece {
  std::string piece;
  float score = 0;
  int type = kNormal;
};

struct ModelSpec {
  std::vector<ModelPiece> pieces;
  int algorithm = 2;  // BPE
  bool byte_fallback = true;
  bool whitespace_as_suffix = false;
  bool add_dummy_prefix = false;
  bool remove_extra_whitespaces = false;
  bool escape_whitespaces = true;
  std::string charsmap;
};

// Ids 0 to 7 as in Gemma: <pad> <eos> <bos> <unk> <mask> <2mass> [@BOS@] <unused0>; then more symbols, HTML tags,
// white space runs, 256 byte pieces, and letters with a few merges.
ModelSpec GemmaLikeSpec();
std::string SerializeModel(const ModelSpec& spec);

// Bytes of tests' and deploy's files.
std::string ReadFileOrDie(const std::string& path);

}  // namespace baton
