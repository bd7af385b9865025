#!/bin/sh
# Writes the secrets that docker-compose.yml mounts into the folder $1, each new and random; what is there stays,
# sfm.yaml with your changes too.
# The folder is closed to other users of this machine; the files in it are readable for containers' users.
set -eu
folder=${1:?usage: make-secrets.sh FOLDER}
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

for name in api_token postgres_password database_password redis_password grafana_password; do
    [ -s "$name" ] || random > "$name"
    chmod 644 "$name"
done
# Settings that hold secrets, as YAML for SFM_CONFIG. Under its name only once it is whole.
if [ ! -s sfm.yaml ]; then
    cat > sfm.yaml.part <<END
MEMORY_MODE: cloud_managed
POSTGRES_URL: postgresql://sfm:$(cat database_password)@postgres:5432/sfm
REDIS_PASSWORD: $(cat redis_password)
END
    mv sfm.yaml.part sfm.yaml
fi
chmod 644 sfm.yaml
echo "SFM_SECRETS=$(pwd)"
