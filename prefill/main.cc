// baton-prefill: see prefill_role.h.
#include "prefill/prefill_role.h"

int main(int argc, char** argv) {
  baton::PrefillRole role;
  return baton::RunWorkerMain(argc, argv, &role);
}
