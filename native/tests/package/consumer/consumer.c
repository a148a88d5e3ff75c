#include <allrounder/c_api.h>
#include <stdio.h>

int main(void) {
  ar_runtime* runtime = NULL;
  ar_error* error = ar_runtime_load("/no/such/bundle", NULL, &runtime);
  printf("%s %s\n", ar_version(), ar_error_name(error));
  ar_error_free(error);
  return 0;
}
